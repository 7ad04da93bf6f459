"""kopf's event handlers: they update the cache and queue the key, and decide nothing."""

import logging
from collections.abc import Callable

import kopf

from aligntune.api import labels
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key, Object
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.session import Connection

Feed = Callable[[Object], Key]
"""Takes an object into the cache, or out of it; returns the AlignTuneJob to look at."""

ALIGN_TUNE_JOBS = (labels.GROUP, labels.VERSION, labels.PLURAL)
JOBS = ("batch", "v1", "jobs")
PODS = ("", "v1", "pods")


def register(
    registry: kopf.OperatorRegistry, cache: Cache, queue: KeyedQueue[Key], connection: Connection
) -> None:
    """Watches AlignTuneJobs, and the Jobs and pods that belong to one."""

    @kopf.on.login(registry=registry)
    def login(**_: object) -> kopf.AiohttpSession:
        if connection.watches.closed:
            raise kopf.PermanentError("the operator stops")
        return connection.for_kopf()

    def watch(resource: tuple[str, str, str], seen: Feed, gone: Feed) -> None:
        @kopf.on.event(*resource, registry=registry, id=resource[-1])
        async def handle(event: kopf.RawEvent, **_: object) -> None:
            body = event["object"]
            key = gone(body) if event["type"] == "DELETED" else seen(body)
            queue.add(key)
            if resource == ALIGN_TUNE_JOBS:
                for follower in cache.followers(key):
                    queue.add(follower)

    watch(ALIGN_TUNE_JOBS, cache.object_seen, cache.object_gone)
    watch(JOBS, cache.job_seen, cache.job_gone)
    watch(PODS, cache.pod_seen, cache.pod_gone)


def kopf_settings() -> kopf.OperatorSettings:
    """Makes kopf a watcher only: no finalizers, no annotations, no Events of its own."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    settings.scanning.disabled = True
    settings.watching.label_selectors[JOBS] = labels.JOB_NAME
    settings.watching.label_selectors[PODS] = labels.JOB_NAME
    return settings
