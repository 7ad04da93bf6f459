"""Estimates the memory of jobs: asks the nodes for their GPUs and the hub for shapes of models."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import Source
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import ApiError, Cluster, RefusedError
from aligntune_operator.hub import Hub
from aligntune_operator.memory import (
    estimable,
    hub_model,
    largest_gpu,
    memory_label,
    shortage,
)
from aligntune_operator.observe import Key
from aligntune_operator.queue import KeyedQueue

NODES_KEPT_FOR = timedelta(minutes=1)
"""How long the labels of nodes count as they were seen: GPUs come and go with machines."""

NodeLabels = Sequence[Mapping[str, str]]

logger = logging.getLogger(__name__)


class Estimator:
    """Tells of a job whether it fits its GPUs; what it has asked for is kept for a while.

    Args:
        cluster: Knows the nodes.
        hub: Knows the models.
        clock: Tells the time.
        rng: For the queue.
    """

    def __init__(
        self, cluster: Cluster, hub: Hub, clock: Callable[[], datetime], rng: random.Random
    ) -> None:
        self.begun = KeyedQueue[Key](rng)
        """Jobs that have begun, and are to be warned of."""
        self._cluster = cluster
        self._hub = hub
        self._clock = clock
        self._nodes: dict[str, tuple[datetime, NodeLabels]] = {}

    async def shortage(self, spec: AlignTuneJobSpec, lineage: Sequence[Source]) -> str:
        """A sentence if the job does not fit; empty if it does, or if that cannot be told.

        Raises:
            ApiError: The API server does not say which nodes there are.
        """
        if not estimable(spec):
            return ""
        # The hub is asked last: where no node tells its GPUs' memory, it need not be.
        gpu_bytes = largest_gpu(await self._labels(spec.runtime.gpu_resource), spec.runtime)
        model = hub_model(spec.method.model, lineage)
        if gpu_bytes is None or model is None:
            return ""
        shape, reward_shape = await self._hub.shape(model), None
        if reward_ref := spec.method.models.get("reward_model"):
            reward_model = hub_model(reward_ref, lineage)
            reward_shape = await self._hub.shape(reward_model) if reward_model else None
        return shortage(spec, shape, reward_shape, gpu_bytes) if shape else ""

    async def _labels(self, gpu_resource: str) -> NodeLabels:
        now, label = self._clock(), memory_label(gpu_resource)
        self._nodes = {key: kept for key, kept in self._nodes.items() if kept[0] > now}
        if label not in self._nodes:
            self._nodes[label] = now + NODES_KEPT_FOR, await self._ask(label)
        return self._nodes[label][1]

    async def _ask(self, label: str) -> NodeLabels:
        try:
            return await self._cluster.node_labels(label)
        except RefusedError as error:
            logger.warning("no memory is estimated: the nodes cannot be listed: %s", error)
            return ()


async def warn_forever(estimator: Estimator, cache: Cache, changed: Callable[[Key], None]) -> None:
    """Estimates jobs that have begun, beside the work on them, and tells of those that are too
    large.
    """
    while True:
        key = await estimator.begun.get()
        try:
            observed = cache.observe(key)
            if observed is not None and observed.spec is not None:
                state = observed.object
                if told := await estimator.shortage(observed.spec, state.status.lineage):
                    cache.note_shortage(state.uid, told)
                    changed(key)
        except ApiError as error:
            logger.warning("%s: its memory is not estimated: %s", key, error)
        except Exception:
            # The process's edge: a warning that cannot be given must not stop the operator.
            logger.exception("%s: its memory is not estimated", key)
        finally:
            estimator.begun.done(key)
