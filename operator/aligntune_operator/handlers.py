"""kopf's event handler of AlignTuneJobs: it updates the cache and queues the key, no more."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import kopf

from aligntune.api import labels
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key, key_of
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.session import Connection, Patience

logger = logging.getLogger(__name__)


def handlers(
    cache: Cache, queue: KeyedQueue[Key], connection: Connection, ends: Callable[[], None]
) -> kopf.OperatorRegistry:
    """Watch AlignTuneJobs; `watch.py` watches the Jobs and pods that belong to one.

    Args:
        cache: What is told of each event.
        queue: Where each AlignTuneJob to look at goes.
        connection: How the API server is reached.
        ends: Called when kopf stops, for whatever reason; it may hang after that.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: object) -> kopf.AiohttpSession:
        if connection.watches.closed:
            raise kopf.PermanentError("the operator stops")
        return connection.for_kopf()

    @kopf.on.cleanup(registry=registry)
    def cleanup(**_: object) -> None:
        ends()

    @kopf.on.event(labels.GROUP, labels.VERSION, labels.PLURAL, registry=registry)
    async def handle(event: kopf.RawEvent, **_: object) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            cache.forget_object(body)
        else:
            cache.take_object(body)
        # Even where the cache knew it from the answer to a write: what follows from it is due now.
        key = key_of(body)
        queue.add(key)
        for follower in cache.followers(key):
            queue.add(follower)

    return registry


WATCH_SECONDS = 240
"""How long one request of kopf's watch lasts: a new one is the sign that it turns."""


def kopf_settings() -> kopf.OperatorSettings:
    """Makes kopf a watcher only: no finalizers, no annotations, no Events of its own."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.networking.error_backoffs = Patience()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffs()
    return settings


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio does with an error of its loop, but for the end of kopf's watch.

    A stop that comes while kopf hands on an event leaves its watch open. Closing it is the last
    thing of all, and fails in kopf: nobody is to look for a fault in that traceback.
    """
    if getattr(context.get("asyncgen"), "__name__", "") == "infinite_watch":
        logger.debug("kopf's watch was open to the end")
    else:
        loop.default_exception_handler(context)


class _NoDiffs(kopf.DiffBaseStorage):
    """Remembers nothing of an object.

    kopf would copy each one to compare it with the next, for handlers that are not there: a third
    of the operator's time.
    """

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None: ...
