"""Runs the operator: `python -m aligntune_operator`, in a pod or anywhere with a kubeconfig."""

import asyncio
import logging
import random
import sys
from datetime import UTC, datetime

import kopf
from prometheus_client import CollectorRegistry

from aligntune.api import labels
from aligntune.api.exit_codes import ExitCode
from aligntune.core.errors import ConfigError
from aligntune_operator import handlers
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import ApiError, Cluster, GoneError
from aligntune_operator.controller import Controller, work_forever
from aligntune_operator.metrics import Metrics
from aligntune_operator.observe import Key
from aligntune_operator.progress import asker, poll_forever
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.relist import relist, relist_forever
from aligntune_operator.server import serve
from aligntune_operator.session import NoClusterError, connect
from aligntune_operator.settings import Settings, load_settings

DEEPEST_OBJECT = 10_000
"""Levels of nesting that the API server takes; Python's JSON reader counts them as recursion, and a
watch that it cannot read would stop the operator for everybody."""


def now() -> datetime:
    """The only wall clock of the operator."""
    return datetime.now(UTC)  # noqa: TID251 - this is the outermost shell


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, or until the cluster refuses the operator's credentials."""
    kopf_settings = handlers.kopf_settings()
    connection = connect(kopf_settings)
    cache: Cache = Cache()
    queue = KeyedQueue[Key](random.Random())  # noqa: S311 - jitter is no secret
    prometheus = CollectorRegistry()
    metrics = Metrics(prometheus, cache, queue.__len__)
    cluster = Cluster(connection.session, connection.server, metrics.request)
    controller = Controller(cache, cluster, settings, now)
    registry = kopf.OperatorRegistry()
    handlers.register(registry, cache, queue, connection)
    ready = asyncio.Event()

    server = await serve(settings.http_port, prometheus, ready.is_set)
    try:
        await relist(cluster, cache, settings.namespaces, queue.add)
        async with asyncio.TaskGroup() as group:
            polling = poll_forever(
                cache,
                queue.add,
                asker(connection, now, metrics.polled),
                interval_seconds=settings.poll_interval_seconds,
                concurrency=settings.poll_concurrency,
            )
            relisting = relist_forever(cluster, cache, settings.namespaces, queue.add)
            workers = (work_forever(queue, controller, metrics) for _ in range(settings.workers))
            background = [group.create_task(task) for task in (polling, relisting, *workers)]
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
        await connection.pods.close()


def main() -> int:
    """Reads the settings and runs; a mistake in them, or no cluster, is one sentence."""
    sys.setrecursionlimit(4 * DEEPEST_OBJECT)
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        asyncio.run(run(settings))
    except ConfigError as error:
        return _say(str(error), ExitCode.BAD_CONFIG)
    except GoneError:
        return _say("the cluster has no AlignTuneJobs: apply crds/ first", 1)
    except (NoClusterError, ApiError) as error:
        return _say(str(error), 1)
    return ExitCode.DONE


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"aligntune-operator: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
