"""Watches of Jobs and pods: what belongs to an AlignTuneJob and changes ten times as often.

kopf would make a task, a logger, a memory and copies of each object for every change; this makes
none. docs/adr/0011 has the figures.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import (
    ALIGN_TUNE_JOBS,
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

logger = logging.getLogger(__name__)


async def watch_namespace(
    cluster: Cluster,
    cache: Cache,
    namespace: str | None,
    listed: list[Listed],
    *,
    changed: Callable[[Key], None],
    beat: Callable[[str], None],
) -> None:
    """Keeps the cache equal to the cluster in the Jobs and pods of a namespace.

    Args:
        cluster: The API server.
        cache: What `listed` was taken into.
        namespace: Which; None for everywhere.
        listed: Its first lists; empty where they were refused.
        changed: Told of each AlignTuneJob to look at.
        beat: Told of each sign of life of each watch.
    """
    if namespace and not listed:
        listed = await list_at_last(cluster, cache, namespace, changed)
    async with asyncio.TaskGroup() as watches:
        for since in listed:
            if since.source.kind != ALIGN_TUNE_JOBS:  # which kopf watches
                name = f"own watch of {since.source.kind.plural} in {namespace}"
                watches.create_task(watch_forever(cluster, since, changed, partial(beat, name)))


async def watch_forever(
    cluster: Cluster, since: Listed, changed: Callable[[Key], None], beat: Callable[[], None]
) -> None:
    """Keeps the cache equal to the cluster in one kind of object.

    Args:
        cluster: The API server.
        since: The list that the cache has taken in.
        changed: Told of each AlignTuneJob to look at.
        beat: Called whenever it asks, and for whatever it is told.
    """
    source, namespace, listed = since
    version: int | None = listed
    where = f"{source.kind.plural} in {namespace}" if namespace else source.kind.plural
    refused = False
    while True:
        told, refused = refused, False
        beat()
        try:
            if version is None:
                version = (await relist(cluster, source, namespace, changed)).version
                beat()
            async for change in cluster.watch(source.kind, namespace, version):
                beat()
                version = change.version
                _take(source, change, changed)
        except ExpiredError:
            logger.info("the watch of %s is too far behind: listing again", where)
            version = None
        except (RefusedError, GoneError) as error:
            refused = True
            if not told:
                logger.warning("the watch of %s is refused (%s): asking on", where, error)
        except ApiError as error:
            logger.warning("the watch of %s broke: %s", where, error)
        await asyncio.sleep(REFUSED_SECONDS if refused else RETRY_SECONDS)


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
