"""Watches of Jobs and pods: what belongs to an AlignTuneJob and changes ten times as often.

kopf would make a task, a logger, a memory and copies of each object for every change; this makes
none. docs/adr/0011 has the figures.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import (
    JOBS,
    PODS,
    ApiError,
    Change,
    Cluster,
    ExpiredError,
    GoneError,
    RefusedError,
)
from aligntune_operator.observe import Key
from aligntune_operator.relist import Listed, Source, list_at_last, relist
from aligntune_operator.session import REFUSED_SECONDS

RETRY_SECONDS = 1.0
"""How long until a watch that ended is asked for again."""

Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""

logger = logging.getLogger(__name__)


async def watch_namespace(
    cluster: Cluster,
    cache: Cache,
    namespace: str | None,
    listed: list[Listed],
    *,
    changed: Callable[[Key], None],
    beat: Callable[[str], None],
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Keeps the cache equal to the cluster in the Jobs and pods of a namespace.

    One that comes to be refused shows nothing until it can be listed again: no watch tells what is
    deleted meanwhile.

    Args:
        cluster: The API server.
        cache: What `listed` was taken into.
        namespace: Which; None for everywhere.
        listed: Its first lists; empty where they were refused.
        changed: Told of each AlignTuneJob to look at.
        beat: Told of each sign of life of each watch.
        sleep: Waits before something is asked for again.
    """
    beats = {
        plural: partial(beat, f"own watch of {plural} in {namespace}")
        for plural in (JOBS.plural, PODS.plural)
    }
    if namespace is None:
        await _watch(cluster, listed, changed, beats, sleep)
        return

    def asks() -> None:
        for turns in beats.values():
            turns()

    while True:
        if not listed:
            listed = await list_at_last(cluster, cache, namespace, changed, asks=asks, sleep=sleep)
        try:
            await _watch(cluster, listed, changed, beats, sleep)
        except* RefusedError as refused:
            logger.warning(
                "namespace %s is refused (%s): asking on", namespace, refused.exceptions[0]
            )
            cache.hold(namespace)
            listed = []


async def _watch(
    cluster: Cluster,
    listed: list[Listed],
    changed: Callable[[Key], None],
    beats: Mapping[str, Callable[[], None]],
    sleep: Sleep,
) -> None:
    """Watches what is listed, but for the kind that kopf watches."""
    by_kind = {since.source.kind.plural: since for since in listed}
    pods = by_kind[PODS.plural].source
    async with asyncio.TaskGroup() as watches:
        for plural, beat in beats.items():
            first = pods if plural == JOBS.plural else None
            since = by_kind[plural]
            watched = watch_forever(cluster, since, changed, beat, first=first, sleep=sleep)
            watches.create_task(watched)


async def watch_forever(
    cluster: Cluster,
    since: Listed,
    changed: Callable[[Key], None],
    beat: Callable[[], None],
    *,
    first: Source | None = None,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Keeps the cache equal to the cluster in one kind of object.

    Args:
        cluster: The API server.
        since: The list that the cache has taken in.
        changed: Told of each AlignTuneJob to look at.
        beat: Called whenever it asks, and for whatever it is told.
        first: Listed anew before what this watch has missed is taken in. A Job that ended
            meanwhile is concluded on, long after its end, without waiting for its pods' last words.
        sleep: Waits before something is asked for again.

    Raises:
        RefusedError: The namespace is refused; where it watches everywhere, it asks on.
    """
    source, namespace, listed = since
    version: int | None = listed
    where = f"{source.kind.plural} in {namespace}" if namespace else source.kind.plural
    fails = False
    while True:
        told, fails, wait = fails, False, RETRY_SECONDS
        beat()
        try:
            if version is None:
                await _list_first(cluster, first, namespace, changed)
                version = (await relist(cluster, source, namespace, changed)).version
                beat()
            async for change in cluster.watch(source.kind, namespace, version):
                beat()
                if told:
                    await _list_first(cluster, first, namespace, changed)
                told, version = False, change.version
                _take(source, change, changed)
        except ExpiredError:
            logger.info("the watch of %s is too far behind: listing again", where)
            version = None
        except ApiError as error:
            fails, refused = True, isinstance(error, RefusedError | GoneError)
            if namespace and isinstance(error, RefusedError):
                raise
            wait = REFUSED_SECONDS if refused else RETRY_SECONDS
            if not told:
                what = "is refused" if refused else "broke"
                logger.warning("the watch of %s %s (%s): asking on", where, what, error)
        await sleep(wait)


async def _list_first(
    cluster: Cluster, first: Source | None, namespace: str | None, changed: Callable[[Key], None]
) -> None:
    if first is not None:
        await relist(cluster, first, namespace, changed)


def _take(source: Source, change: Change, changed: Callable[[Key], None]) -> None:
    if change.type == "BOOKMARK":
        return
    take = source.gone if change.type == "DELETED" else source.seen
    try:
        key = take(change.object)
    except Exception:
        # The process's edge: one object that meets a bug must not hide the others.
        logger.exception("%s: could not be read", change.object["metadata"].get("name"))
        return
    if key is not None:
        changed(key)
