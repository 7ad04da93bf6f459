"""Every object of one attempt."""

from collections.abc import Mapping, Sequence
from typing import Any

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import Attempts, Source
from aligntune_operator.observe import Key
from aligntune_operator.render.job import NO_ATTEMPTS, NO_LABELS, job
from aligntune_operator.render.network_policy import network_policy
from aligntune_operator.render.service import service
from aligntune_operator.settings import Settings


def attempt_objects(
    key: Key,
    uid: str,
    spec: AlignTuneJobSpec,
    attempt: int,
    settings: Settings,
    *,
    earlier: Attempts = NO_ATTEMPTS,
    lineage: Sequence[Source] = (),
    queue_labels: Mapping[str, str] = NO_LABELS,
) -> list[dict[str, Any]]:
    """What is there for an attempt, in the order in which it is made: its Job is the last.

    What stands beside the Job is one for all attempts of an AlignTuneJob. The arguments are those
    of `job`.
    """
    beside = []
    if settings.network_policies:
        beside.append(network_policy(key, uid, settings.observers))
    if spec.runtime.nodes > 1:
        beside.append(service(key, uid))
    last = job(
        key,
        uid,
        spec,
        attempt,
        settings,
        earlier=earlier,
        lineage=lineage,
        queue_labels=queue_labels,
    )
    return [*beside, last]
