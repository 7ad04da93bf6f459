"""Runs the operator: `python -m aligntune_operator`, in a pod or anywhere with a kubeconfig."""

import asyncio
import logging
import random
import sys
from datetime import UTC, datetime
from functools import partial

import kopf
from prometheus_client import CollectorRegistry
from pydantic_settings import CliApp

from aligntune.api import labels
from aligntune_operator import handlers
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import ApiError, Cluster
from aligntune_operator.controller import Controller, work_forever
from aligntune_operator.metrics import Metrics
from aligntune_operator.observe import Key, PodState, Poll
from aligntune_operator.progress import ask, pod_address, poll_forever, proxy_address
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.server import serve
from aligntune_operator.session import Connection, NoClusterError, connect
from aligntune_operator.settings import Settings


def now() -> datetime:
    """The only wall clock of the operator."""
    return datetime.now(UTC)  # noqa: TID251 - this is the outermost shell


async def synchronise(cluster: Cluster, cache: Cache, namespaces: tuple[str, ...]) -> None:
    """Learns of every Job and pod before anything is decided: a missing one would be created."""
    for namespace in namespaces or (None,):
        async for job in cluster.list("apis/batch/v1", "jobs", namespace):
            cache.job_seen(job)
        async for pod in cluster.list("api/v1", "pods", namespace):
            cache.pod_seen(pod)


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, or until the cluster refuses the operator's credentials."""
    kopf_settings = handlers.kopf_settings()
    connection = connect(kopf_settings)
    cache: Cache = Cache()
    queue: KeyedQueue[Key] = KeyedQueue(random.Random())  # noqa: S311 - jitter is no secret
    prometheus = CollectorRegistry()
    metrics = Metrics(prometheus, cache, queue.__len__)
    cluster = Cluster(connection.session, connection.server, metrics.request)
    controller = Controller(cache, cluster, settings, now)
    registry = kopf.OperatorRegistry()
    handlers.register(registry, cache, queue, connection)
    ready = asyncio.Event()

    server = await serve(settings.http_port, prometheus, lambda: True, ready.is_set)
    try:
        await synchronise(cluster, cache, settings.namespaces)
        async with asyncio.TaskGroup() as group:
            polling = poll_forever(
                cache,
                queue.add,
                partial(_ask, connection, metrics),
                interval_seconds=settings.poll_interval_seconds,
                concurrency=settings.poll_concurrency,
            )
            workers = (
                work_forever(queue, controller, cache, metrics) for _ in range(settings.workers)
            )
            background = [group.create_task(task) for task in (polling, *workers)]
            ready.set()
            await kopf.operator(
                registry=registry,
                settings=kopf_settings,
                standalone=True,
                # Else kopf looks up a user name, and an arbitrary user id has none.
                identity=labels.FIELD_MANAGER,  # type: ignore[arg-type] # a NewType that is private
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
            )
            for task in background:
                task.cancel()
    finally:
        await server.cleanup()
        await connection.session.close()


async def _ask(connection: Connection, metrics: Metrics, key: Key, pod: PodState) -> Poll:
    address = pod_address if connection.in_cluster else proxy_address(connection.server)
    poll = await ask(connection.session, address(key, pod), pod, now())
    metrics.polls.labels("error" if poll.error else "ok").inc()
    return poll


def main() -> int:
    """Reads the settings and runs; a mistake in them is one sentence."""
    settings = CliApp.run(Settings)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(run(settings))
    except (NoClusterError, ApiError) as error:
        sys.stderr.write(f"aligntune-operator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
