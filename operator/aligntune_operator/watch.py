"""Watches of Jobs and pods: what belongs to an AlignTuneJob and changes ten times as often.

kopf would make a task, a logger, a memory and copies of each object for every change; this makes
none. docs/adr/0011 has the figures.
"""

import asyncio
import logging
from collections.abc import Callable

from aligntune_operator.cluster import ApiError, Change, Cluster, ExpiredError
from aligntune_operator.observe import Key
from aligntune_operator.relist import Listed, Source, relist

RETRY_SECONDS = 1.0
"""How long until a watch that ended is asked for again."""

logger = logging.getLogger(__name__)


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
    source, namespace, version = since
    while True:
        beat()
        try:
            async for change in cluster.watch(source.kind, namespace, version):
                beat()
                version = change.version
                _take(source, change, changed)
        except ExpiredError:
            logger.info("the watch of %s is too far behind: listing again", source.kind.plural)
            version = await _relisted(cluster, source, namespace, changed, beat)
        except ApiError as error:
            logger.warning("the watch of %s broke: %s", source.kind.plural, error)
        await asyncio.sleep(RETRY_SECONDS)


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


async def _relisted(
    cluster: Cluster,
    source: Source,
    namespace: str | None,
    changed: Callable[[Key], None],
    beat: Callable[[], None],
) -> int:
    """The version of a list that could be had at last."""
    while True:
        beat()
        try:
            return (await relist(cluster, source, namespace, changed)).version
        except ApiError as error:
            logger.warning("%s could not be listed: %s", source.kind.plural, error)
            await asyncio.sleep(RETRY_SECONDS)
