"""Whole lists beside the watches: a watch that breaks does not tell what vanished meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from aligntune_operator.cache import Cache, Store
from aligntune_operator.cluster import (
    ALIGN_TUNE_JOBS,
    JOBS,
    PODS,
    ApiError,
    Cluster,
    Kind,
    RefusedError,
)
from aligntune_operator.observe import AlignTuneJobState, JobState, Key, Object, PodState
from aligntune_operator.session import REFUSED_SECONDS, Patience

INTERVAL_SECONDS = 300.0
"""How long a deletion that no watch told of may go unnoticed."""
TOLD_SECONDS = 10.0
"""How long after a list a watch may tell of what went before it: its word may be on its way."""

logger = logging.getLogger(__name__)


class Feed(NamedTuple):
    """A kind of object, and where what is seen of it goes."""

    kind: Kind
    store: Store[AlignTuneJobState] | Store[JobState] | Store[PodState]
    take: Callable[[Object], Key | None]
    """Takes an object in; returns the AlignTuneJob to look at, if anything that matters is new."""
    forget: Callable[[Object], Key]


class Listed(NamedTuple):
    """A list that the cache has taken in: where to watch from."""

    feed: Feed
    namespace: str | None
    version: int


def feeds(cache: Cache) -> tuple[Feed, ...]:
    """All that the cache is made of; AlignTuneJobs first, since they own the rest."""
    return (
        Feed(ALIGN_TUNE_JOBS, cache.objects, cache.take_object, cache.forget_object),
        Feed(JOBS, cache.jobs, cache.take_job, cache.forget_job),
        Feed(PODS, cache.pods, cache.take_pod, cache.forget_pod),
    )


async def relist(
    cluster: Cluster,
    feed: Feed,
    namespace: str | None,
    changed: Callable[[Key], None],
) -> Listed:
    """Makes the cache equal to the cluster in one kind of object.

    Args:
        cluster: The API server.
        feed: What to list.
        namespace: Where; None for everywhere.
        changed: Told of each AlignTuneJob to look at.

    Raises:
        ApiError: The list could not be had; a 404 means that the CRD is not there.
    """
    listed, uids = await _take_in(cluster, feed, namespace, changed)
    for key in feed.store.retain(namespace, uids, listed.version):
        changed(key)
    return listed


async def _take_in(
    cluster: Cluster, feed: Feed, namespace: str | None, changed: Callable[[Key], None]
) -> tuple[Listed, set[str]]:
    """Takes in what a list shows, and forgets nothing yet; returns their UIDs, too."""
    uids: set[str] = set()

    def take(body: Object) -> None:
        uids.add(body["metadata"]["uid"])
        if (key := feed.take(body)) is not None:
            changed(key)

    with feed.store.listing():
        version = await cluster.list(feed.kind, namespace, take)
    return Listed(feed, namespace, version), uids


async def list_first(
    cluster: Cluster,
    cache: Cache,
    namespace: str | None,
    changed: Callable[[Key], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Listed]:
    """Takes in every kind before the first decision.

    A Job that is merely not seen yet must not be created again. An API server that is out of order,
    or throttles, is waited for.

    Args:
        cluster: The API server.
        cache: What is to know it all.
        namespace: Where; None for everywhere.
        changed: Told of each AlignTuneJob to look at.
        sleep: Waits for so many seconds.

    Returns:
        Where to watch from; nothing where a namespace refuses, of which the cache shows nothing.

    Raises:
        ApiError: Everywhere is refused, the CRD is not there, or nothing answers.
    """
    waits, told = iter(Patience()), False
    while True:
        try:
            return [await relist(cluster, feed, namespace, changed) for feed in feeds(cache)]
        except RefusedError as error:
            if namespace is None:
                raise
            logger.warning("namespace %s is refused (%s): asking on", namespace, error)
            cache.hold(namespace)
            return []
        except ApiError as error:
            throttled = error.status == HTTPStatus.TOO_MANY_REQUESTS
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and not throttled:
                raise
            if not told:
                logger.warning("the lists could not be had (%s): waiting for the API server", error)
            told = True
        await sleep(next(waits))


async def list_at_last(
    cluster: Cluster,
    cache: Cache,
    namespace: str,
    changed: Callable[[Key], None],
    *,
    asks: Callable[[], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Listed]:
    """Where to watch a namespace from that was refused, once it no longer is.

    Args:
        cluster: The API server.
        cache: Which shows nothing of it until then.
        namespace: Which.
        changed: Told of each AlignTuneJob to look at, of which one may be gone.
        asks: Called whenever it asks.
        sleep: Waits for so many seconds.
    """
    while True:
        await sleep(REFUSED_SECONDS)
        asks()
        try:
            listed = [await relist(cluster, feed, namespace, changed) for feed in feeds(cache)]
        except ApiError as error:
            logger.debug("namespace %s: %s", namespace, error)
        else:
            logger.info("namespace %s is refused no longer", namespace)
            for key in cache.release(namespace):
                changed(key)
            return listed


async def relist_forever(
    cluster: Cluster,
    cache: Cache,
    namespaces: tuple[str, ...],
    changed: Callable[[Key], None],
    missed: Callable[[], None],
) -> None:
    """Compares the cache with the cluster every few minutes."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        await compare(cluster, cache, namespaces, changed, missed)


async def compare(
    cluster: Cluster,
    cache: Cache,
    namespaces: tuple[str, ...],
    changed: Callable[[Key], None],
    missed: Callable[[], None],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Makes the cache equal to the cluster, once the watches had time to.

    Args:
        cluster: The API server.
        cache: What is to be equal to it.
        namespaces: Where; none for everywhere.
        changed: Told of each AlignTuneJob to look at.
        missed: Called for each object that has vanished and that no watch told of.
        sleep: Waits for so many seconds.
    """
    shown = []
    for namespace in namespaces or (None,):
        for feed in feeds(cache):
            try:
                shown.append(await _take_in(cluster, feed, namespace, changed))
            except ApiError as error:
                logger.warning("the cache could not be compared with the cluster: %s", error)
    await sleep(TOLD_SECONDS)
    for (feed, namespace, version), uids in shown:
        for key in feed.store.retain(namespace, uids, version):
            missed()
            changed(key)
