"""Whole lists beside the watches: a watch that breaks does not tell what vanished meanwhile."""

import asyncio
import logging
from collections.abc import Callable

from aligntune_operator.cache import Cache, Store
from aligntune_operator.cluster import ALIGN_TUNE_JOBS, JOBS, PODS, ApiError, Cluster, Kind
from aligntune_operator.observe import AlignTuneJobState, JobState, Key, Object, PodState

INTERVAL_SECONDS = 300.0
"""How long a deletion that no watch told of may go unnoticed."""

Feed = Callable[[Object], Key]
AnyStore = Store[AlignTuneJobState] | Store[JobState] | Store[PodState]

logger = logging.getLogger(__name__)


async def relist(
    cluster: Cluster, cache: Cache, namespaces: tuple[str, ...], changed: Callable[[Key], None]
) -> None:
    """Makes the cache equal to the cluster; `changed` is told of each job that lost something.

    The first call comes before the first decision: a Job that is merely not seen yet must not be
    created again.

    Raises:
        ApiError: A list could not be had; a 404 means that the CRD is not there.
    """
    sources: tuple[tuple[Kind, AnyStore, Feed], ...] = (
        (ALIGN_TUNE_JOBS, cache.objects, cache.object_seen),
        (JOBS, cache.jobs, cache.job_seen),
        (PODS, cache.pods, cache.pod_seen),
    )
    for namespace in namespaces or (None,):
        for kind, store, seen in sources:
            uids: set[str] = set()

            def take(body: Object, seen: Feed = seen, uids: set[str] = uids) -> None:
                uids.add(body["metadata"]["uid"])
                seen(body)

            version = await cluster.list(kind, namespace, take)
            for key in store.retain(namespace, uids, version):
                changed(key)


async def relist_forever(
    cluster: Cluster,
    cache: Cache,
    namespaces: tuple[str, ...],
    changed: Callable[[Key], None],
    missed: Callable[[], None],
) -> None:
    """Relists every few minutes; `missed` is called for each job that no watch told of."""

    def lost(key: Key) -> None:
        missed()
        changed(key)

    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        try:
            await relist(cluster, cache, namespaces, lost)
        except ApiError as error:
            logger.warning("the cache could not be compared with the cluster: %s", error)
