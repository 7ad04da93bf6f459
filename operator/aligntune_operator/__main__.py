"""Runs the operator: `python -m aligntune_operator`, in a pod or anywhere with a kubeconfig."""

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf
from prometheus_client import CollectorRegistry

from aligntune.api import labels
from aligntune.api.exit_codes import ExitCode
from aligntune.core.errors import ConfigError
from aligntune_operator.cache import Cache
from aligntune_operator.clock import ServerClock
from aligntune_operator.cluster import (
    ApiError,
    Cluster,
    GoneError,
    NotLeadingError,
)
from aligntune_operator.controller import Controller, work_forever
from aligntune_operator.estimator import Estimator, warn_forever
from aligntune_operator.handlers import handlers, kopf_settings, on_loop_error
from aligntune_operator.heartbeats import Heartbeats
from aligntune_operator.hub import Hub
from aligntune_operator.leader import ANSWER_SECONDS, Election, Elector, Leadership, Lease, alone
from aligntune_operator.metrics import Metrics
from aligntune_operator.observe import Key
from aligntune_operator.outbox import Outbox
from aligntune_operator.progress import asker, poll_forever
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.relist import list_first, relist_forever
from aligntune_operator.server import serving
from aligntune_operator.session import NoClusterError, connect, log_in
from aligntune_operator.settings import Settings, load_settings
from aligntune_operator.watch import watch_namespace

DEEPEST_OBJECT = 10_000
"""Levels of nesting that the API server takes; Python's JSON reader counts them as recursion, and a
watch that it cannot read would stop the operator for everybody."""

STUCK_SECONDS = 300.0
"""How long one reconciliation may take before the replica counts as dead: its requests time out
long before."""

logger = logging.getLogger(__name__)


def now() -> datetime:
    """The only wall clock of the operator; decisions read it through `ServerClock`."""
    return datetime.now(UTC)  # noqa: TID251 - this is the outermost shell


async def together(*tasks: Coroutine[Any, Any, None]) -> None:
    """Runs all of these until one fails, which ends the others."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Every replica watches, so that the one that takes over knows everything already; the leader
    alone reconciles, and asks pods for their progress. A leader that loses its Lease ends on the
    spot.
    """
    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    settings_of_kopf = kopf_settings()
    heartbeats = Heartbeats(time.monotonic)
    connection = connect(settings_of_kopf, heartbeats.beat)
    cache = Cache(timedelta(seconds=settings.node_lost_timeout_seconds))
    rng = random.Random()  # noqa: S311 - jitter is no secret
    # Whoever creates many jobs waits for pods first, and for news of those that run after that.
    # More statuses written at once would not be written faster, and keep new jobs waiting.
    queue = KeyedQueue[Key](rng, comes_first=cache.is_new, others_at_once=settings.others_at_once)
    election = elect(settings) if settings.lease_namespace else alone()
    prometheus = CollectorRegistry()
    metrics = Metrics(prometheus, cache, queue.__len__, election.leads)
    clock = ServerClock(now)
    cluster = Cluster(
        connection.session, connection.server, metrics.request, election.leads, dated=clock.dated
    )
    estimator = Estimator(cluster, Hub(connection.pods, settings.hub_endpoint, clock), clock, rng)
    outbox = Outbox(rng, clock, metrics.events_dropped.inc, others_first=queue.has_first)
    controller = Controller(
        cache,
        cluster,
        settings,
        clock,
        estimator=estimator,
        post=outbox.post,
        others_first=queue.has_first,
    )
    ready, kopf_runs, stopping = asyncio.Event(), asyncio.Event(), asyncio.Event()
    kopf_ends = asyncio.Event()

    async def lead() -> None:
        await election.won()
        logger.info("this replica leads")
        polls = poll_forever(
            cache,
            queue.add,
            asker(connection, clock, metrics.polled),
            interval_seconds=settings.poll_interval_seconds,
            concurrency=settings.poll_concurrency,
        )
        workers = [work_forever(queue, controller, metrics) for _ in range(settings.workers)]
        try:
            await together(
                *workers,
                polls,
                warn_forever(estimator, cache, queue.add),
                outbox.send_forever(cluster),
                election.lost(),
            )
        except* NotLeadingError:
            # As client-go does: nothing of a leader that may have a successor is worth finishing.
            os._exit(_say("this replica led, and another may by now", 1))

    endpoints = serving(
        settings.http_port,
        prometheus,
        ready=ready.is_set,
        alive=lambda: queue.stuck_seconds() < STUCK_SECONDS and heartbeats.alive(),
    )
    try:
        async with endpoints:
            listed = {
                namespace: await list_first(cluster, cache, namespace, queue.add)
                for namespace in settings.namespaces or (None,)
            }
            async with asyncio.TaskGroup() as group:
                watches = [
                    watch_namespace(
                        cluster,
                        cache,
                        namespace,
                        known,
                        changed=queue.add,
                        beat=heartbeats.beat,
                    )
                    for namespace, known in listed.items()
                ]
                relisting = relist_forever(
                    cluster, cache, settings.namespaces, queue.add, metrics.watch_missed.inc
                )
                leading = group.create_task(lead())
                tasks = (
                    *watches,
                    relisting,
                    resign_at_once(leading, election, kopf_runs, stopping),
                )
                background = [leading, *(group.create_task(task) for task in tasks)]
                ending = group.create_task(end_with_kopf(leading, election, kopf_ends, stopping))
                ready.set()
                registry = handlers(cache, queue, connection, kopf_ends.set)
                await run_kopf(registry, settings_of_kopf, settings, kopf_runs, stopping)
                kopf_ends.set()
                await ending
                for task in background:
                    task.cancel()
    finally:
        await election.resign()
        await connection.close()


async def run_kopf(
    registry: kopf.OperatorRegistry,
    settings_of_kopf: kopf.OperatorSettings,
    settings: Settings,
    runs: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Runs kopf until it is to stop, or fails, which the log then tells."""
    try:
        await kopf.operator(
            registry=registry,
            settings=settings_of_kopf,
            standalone=True,
            # Else kopf looks up a user name, and an arbitrary user id has none.
            identity=labels.FIELD_MANAGER,  # type: ignore[arg-type] # a NewType that is private
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            ready_flag=runs,
            stop_flag=stopping,
        )
    except Exception:
        # The process ends for it, with a sentence: see `end_with_kopf`.
        logger.exception("kopf failed")


async def resign_at_once(
    leading: asyncio.Task[None],
    election: Election,
    kopf_runs: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Lets another replica lead as soon as a signal ends this one.

    kopf takes seconds to end its watches, and reads its own signal handlers meanwhile.
    """
    await kopf_runs.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await resign(leading, election)


async def end_with_kopf(
    leading: asyncio.Task[None],
    election: Election,
    kopf_ends: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Ends the process where kopf ends though nothing asked it to.

    kopf would wait for every task begun since its start, without end, after it has cancelled them.
    """
    await kopf_ends.wait()
    if not stopping.is_set():
        await resign(leading, election)
        os._exit(_say("the watch of AlignTuneJobs failed: the log above says why", 1))


async def resign(leading: asyncio.Task[None], election: Election) -> None:
    """Stops what a leader does, then gives the Lease up."""
    leading.cancel()
    await asyncio.wait([leading])
    await election.resign()


def elect(settings: Settings) -> Election:
    """Takes part in the election of the replica that leads."""
    leadership = Leadership(time.monotonic)
    me = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    election = Election(leadership)

    @asynccontextmanager
    async def lease() -> AsyncIterator[Lease]:
        login = log_in(kopf_settings())
        async with login.session() as session:
            cluster = Cluster(
                session,
                login.server,
                lambda *_: None,
                may_write=lambda: True,
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            )
            yield Lease(cluster, settings.lease_namespace, settings.lease_name)

    election.begin(Elector(leadership, me, now, election.sleep), lease)
    return election


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
