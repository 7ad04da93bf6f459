"""Runs the operator: `python -m aligntune_operator`, in a pod or anywhere with a kubeconfig."""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf

from aligntune.api import labels
from aligntune.api.exit_codes import ExitCode
from aligntune.api.nesting import deep_objects
from aligntune.core.clock import now
from aligntune.core.errors import ConfigError
from aligntune_operator.cluster import ApiError, Cluster, GoneError, NotLeadingError
from aligntune_operator.controller import work_forever
from aligntune_operator.estimator import warn_forever
from aligntune_operator.handlers import handlers, on_loop_error
from aligntune_operator.leader import ANSWER_SECONDS, Election, Lease
from aligntune_operator.parts import Parts, assemble
from aligntune_operator.progress import asker, poll_forever
from aligntune_operator.relist import list_first, relist_forever
from aligntune_operator.server import serving
from aligntune_operator.session import NoClusterError, log_in
from aligntune_operator.settings import Settings, load_settings
from aligntune_operator.watch import watch_namespace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Milestones:
    """What has happened in the life of this process."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """All that was there is known."""
    kopf_runs: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """A signal has asked the process to end, and with it kopf."""
    kopf_ends: asyncio.Event = field(default_factory=asyncio.Event)
    """For whatever reason; it may hang after that."""


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Every replica watches, so that the one that takes over knows everything already; the leader
    alone reconciles, and asks pods for their progress. A leader that loses its Lease ends on the
    spot.
    """
    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    parts, reached = assemble(settings, now), Milestones()
    if settings.lease_namespace:
        stand_for_election(parts)
    endpoints = serving(
        settings.http_port, parts.prometheus, ready=reached.ready.is_set, alive=parts.alive
    )
    try:
        async with endpoints:
            watches = await list_everything(parts)
            async with asyncio.TaskGroup() as group:
                leading = group.create_task(lead(parts))
                beside = (
                    *watches,
                    keep_listing(parts),
                    resign_at_once(leading, parts.election, reached),
                )
                background = [leading, *(group.create_task(task) for task in beside)]
                ending = group.create_task(end_with_kopf(leading, parts.election, reached))
                reached.ready.set()
                await run_kopf(parts, reached)
                reached.kopf_ends.set()
                await ending
                for task in background:
                    task.cancel()
    finally:
        await parts.election.resign()
        await parts.connection.close()


def stand_for_election(parts: Parts) -> None:
    """Takes part in the election of the replica that leads."""

    @asynccontextmanager
    async def lease() -> AsyncIterator[Lease]:
        login = log_in(parts.kopf_settings)
        async with login.session() as session:
            cluster = Cluster(
                session,
                login.server,
                lambda *_: None,
                may_write=lambda: True,
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            )
            yield Lease(cluster, parts.settings.lease_namespace, parts.settings.lease_name)

    parts.election.begin(f"{socket.gethostname()}_{secrets.token_hex(4)}", now, lease)


async def list_everything(parts: Parts) -> list[Coroutine[Any, Any, None]]:
    """Takes in all that is there; returns the watches that go on from it."""
    listed = {
        namespace: await list_first(parts.cluster, parts.cache, namespace, parts.queue.add)
        for namespace in parts.settings.namespaces or (None,)
    }
    return [
        watch_namespace(
            parts.cluster,
            parts.cache,
            namespace,
            known,
            changed=parts.queue.add,
            beat=parts.heartbeats.beat,
        )
        for namespace, known in listed.items()
    ]


def keep_listing(parts: Parts) -> Coroutine[Any, Any, None]:
    """Looks now and then for what no watch told of."""
    return relist_forever(
        parts.cluster,
        parts.cache,
        parts.settings.namespaces,
        parts.queue.add,
        parts.metrics.watch_missed.inc,
    )


async def lead(parts: Parts) -> None:
    """Does what the leader alone does, once this replica leads, until it leads no more."""
    settings, queue = parts.settings, parts.queue
    await parts.election.won()
    logger.info("this replica leads")
    queue.open(job.key for job in parts.cache.align_tune_jobs())
    polls = poll_forever(
        parts.cache,
        queue.add,
        asker(parts.connection, parts.clock, parts.metrics.count_poll),
        interval_seconds=settings.poll_interval_seconds,
        concurrency=settings.poll_concurrency,
    )
    workers = (
        work_forever(queue, parts.controller, parts.metrics) for _ in range(settings.workers)
    )
    try:
        await together(
            *workers,
            polls,
            warn_forever(parts.estimator, parts.cache, queue.add),
            parts.outbox.send_forever(parts.cluster),
            parts.election.lost(),
        )
    except* NotLeadingError:
        _say("lost the leader Lease; exiting")
        # As client-go does: nothing of a leader that may have a successor is worth finishing.
        os._exit(1)


async def together(*tasks: Coroutine[Any, Any, None]) -> None:
    """Runs all of these until one fails, which ends the others."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


async def run_kopf(parts: Parts, reached: Milestones) -> None:
    """Runs kopf until it is to stop, or fails, which the log then tells."""
    namespaces = parts.settings.namespaces
    try:
        await kopf.operator(
            registry=handlers(parts.cache, parts.queue, parts.connection, reached.kopf_ends.set),
            settings=parts.kopf_settings,
            standalone=True,
            # Else kopf looks up a user name, and an arbitrary user id has none.
            identity=labels.FIELD_MANAGER,  # type: ignore[arg-type] # a NewType that is private
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=reached.kopf_runs,
            stop_flag=reached.stopping,
        )
    except Exception:
        # The process ends for it, with a sentence: see `end_with_kopf`.
        logger.exception("kopf failed")


async def resign_at_once(
    leading: asyncio.Task[None], election: Election, reached: Milestones
) -> None:
    """Lets another replica lead as soon as a signal ends this one.

    kopf takes seconds to end its watches, and reads its own signal handlers meanwhile.
    """
    await reached.kopf_runs.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, reached.stopping.set)
    await reached.stopping.wait()
    await resign(leading, election)


async def end_with_kopf(
    leading: asyncio.Task[None], election: Election, reached: Milestones
) -> None:
    """Ends the process where kopf ends though nothing asked it to.

    kopf would wait for every task begun since its start, without end, after it has cancelled them.
    """
    await reached.kopf_ends.wait()
    if not reached.stopping.is_set():
        await resign(leading, election)
        _say("the watch of AlignTuneJobs failed: the log above says why")
        os._exit(1)


async def resign(leading: asyncio.Task[None], election: Election) -> None:
    """Stops what a leader does, then gives the Lease up."""
    leading.cancel()
    await asyncio.wait([leading])
    await election.resign()


def main() -> int:
    """Reads the settings and runs; a mistake in them, or no cluster, is one sentence."""
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        # kopf tells there of every event that it hands on.
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
        with deep_objects():
            asyncio.run(run(settings))
    except ConfigError as error:
        _say(str(error))
        return ExitCode.BAD_CONFIG
    except GoneError:
        _say("the cluster has no AlignTuneJobs: apply crds/ first")
        return 1
    except (NoClusterError, ApiError) as error:
        _say(str(error))
        return 1
    return ExitCode.DONE


def _say(sentence: str) -> None:
    sys.stderr.write(f"aligntune-operator: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
