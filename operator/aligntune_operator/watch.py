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
from aligntune_operator.relist import Feed, Listed, list_at_last, relist
from aligntune_operator.session import REFUSED_SECONDS

RETRY_SECONDS = 1.0
"""How long until a watch that ended is asked for again."""

Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""
CatchUp = Callable[[], Awaitable[object]]
"""Awaited by a watch before it takes in what it has missed."""

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
    by_kind = {since.feed.kind.plural: since for since in listed}
    pods = by_kind[PODS.plural]
    # A Job that ended meanwhile is concluded on, long after its end, without waiting for its pods'
    # last words.
    pods_first = partial(relist, cluster, pods.feed, pods.namespace, changed)
    catch_up: Mapping[str, CatchUp] = {JOBS.plural: pods_first, PODS.plural: _nothing}
    async with asyncio.TaskGroup() as watches:
        for plural, beat in beats.items():
            watched = watch_forever(
                cluster, by_kind[plural], changed, beat, catch_up=catch_up[plural], sleep=sleep
            )
            watches.create_task(watched)


async def _nothing() -> None: ...


class Outage:
    """A spell in which a watch is not answered as it should be; the log tells of each once.

    Args:
        watch: What is watched, for the log.
    """

    def __init__(self, watch: str) -> None:
        self._watch = watch
        self.lasts = False

    def tell(self, error: ApiError) -> None:
        """Takes in a failure."""
        if not self.lasts:
            what = "is refused" if _refuses(error) else "broke"
            logger.warning("the watch of %s %s (%s): asking on", self._watch, what, error)
        self.lasts = True

    def end(self) -> None:
        """Takes in that the API server answers."""
        self.lasts = False


async def watch_forever(
    cluster: Cluster,
    since: Listed,
    changed: Callable[[Key], None],
    beat: Callable[[], None],
    *,
    catch_up: CatchUp = _nothing,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Keeps the cache equal to the cluster in one kind of object.

    Args:
        cluster: The API server.
        since: The list that the cache has taken in.
        changed: Told of each AlignTuneJob to look at.
        beat: Called whenever it asks, and for whatever it is told.
        catch_up: Awaited before anything that this watch has missed is taken in.
        sleep: Waits before something is asked for again.

    Raises:
        RefusedError: The namespace is refused; where it watches everywhere, it asks on.
    """
    feed, namespace, listed = since
    where = f"{feed.kind.plural} in {namespace}" if namespace else feed.kind.plural
    outage = Outage(where)
    version: int | None = listed  # None: too old to go on from
    while True:
        wait = RETRY_SECONDS
        beat()
        try:
            if version is None:
                await catch_up()
                version = (await relist(cluster, feed, namespace, changed)).version
                beat()
            async for change in cluster.watch(feed.kind, namespace, version):
                beat()
                if outage.lasts:
                    await catch_up()
                    outage.end()
                version = change.version
                _take(feed, change, changed)
            outage.end()
        except ExpiredError:
            logger.info("the watch of %s is too far behind: listing again", where)
            outage.end()
            version = None
        except ApiError as error:
            if namespace and isinstance(error, RefusedError):
                raise
            outage.tell(error)
            if _refuses(error):
                wait = REFUSED_SECONDS
        await sleep(wait)


def _refuses(error: ApiError) -> bool:
    return isinstance(error, RefusedError | GoneError)


def _take(feed: Feed, change: Change, changed: Callable[[Key], None]) -> None:
    if change.type == "BOOKMARK":
        return
    take = feed.forget if change.type == "DELETED" else feed.take
    try:
        key = take(change.object)
    except Exception:
        # The process's edge: one object that meets a bug must not hide the others.
        logger.exception("%s: could not be read", change.object["metadata"].get("name"))
        return
    if key is not None:
        changed(key)
