"""One run of one workload on one side, in a cluster of its own: raw data, no figures yet."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil

from aligntune_operator.settings import Settings
from bench.scale import requests
from bench.scale.peer import peer, peer_with_raised_limits
from bench.scale.sides import OURS, PLAIN, THEIRS, Side, events_written, timeline
from bench.scale.workloads import Client, first_writes
from bench.scale.world import World, nobody, operator, world
from tests.cluster.operator_process import Operator
from tests.cluster.processes import wait_until

WARM_UP = 5
PATIENCE_SECONDS = 900.0
IDLE_SECONDS = 30
BETWEEN_SINGLES_SECONDS = 1.0
SETTLED_SECONDS = 2.0
SETTLED_SHARE = 0.05
"""Controllers that have used less of a core than this, for so long, have nothing left to do."""

Record = dict[str, Any]
Create = Callable[[Client, Side, list[str]], Awaitable[float]]
"""Creates objects; returns when the first write began that counts, in seconds."""


async def at_once(client: Client, side: Side, names: list[str]) -> float:
    began = time.monotonic()
    await client.at_once(side, names)
    return began


async def one_by_one(client: Client, side: Side, names: list[str]) -> float:
    began = time.monotonic()
    for name in names:
        await client.create(side, name)
        await asyncio.sleep(BETWEEN_SINGLES_SECONDS)
    return began


def steadily(per_second: float) -> Create:
    async def create(client: Client, side: Side, names: list[str]) -> float:
        began = time.monotonic()
        await client.steadily(side, names, per_second)
        return began

    return create


async def bare_writes(client: Client, _: Side, names: list[str]) -> float:
    """The floor: the objects are there; a bare client makes the operator's first two writes."""
    bodies = await client.at_once(OURS, names)
    pairs = [first_writes(body, Settings(), datetime.now(UTC)) for body in bodies]
    began = time.monotonic()
    client.created = dict.fromkeys(names, began)
    await client.write_as_we_would(pairs)
    return began


async def bare_life(client: Client, _: Side, names: list[str]) -> float:
    """The floor of what a user waits for: the client creates the objects at the same time."""
    began = time.monotonic()
    await client.create_and_start(
        names, lambda body: first_writes(body, Settings(), datetime.now(UTC))
    )
    return began


class Contest(NamedTuple):
    """A side, and how its objects are created."""

    name: str
    side: Side
    create: Create
    beside: Callable[[World], AbstractContextManager[Operator | None]]
    """Starts who makes Jobs of its objects."""


async def life(around: World, contest: Contest, tag: str, count: int) -> Record:
    """Creates objects, waits until all have succeeded, and then for what trails, such as Events."""
    client = Client(around.connection)
    before, asked, load = around.requests(), around.asked(), os.getloadavg()[0]
    async with around.watched(contest.side, count) as (folder, done):
        meter = around.meter()
        names = [f"{tag}-{number}" for number in range(count)]
        began = await contest.create(client, contest.side, names)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await done(), "the watcher has ended"
            took = time.monotonic() - began
            await settled(around.controllers.values())
        usage = meter.read()
    found = timeline(contest.side, folder, client.created)
    return {
        "count": count,
        "seconds": took,
        "load": [load, os.getloadavg()[0]],
        "usage": {name: used._asdict() for name, used in usage.items()},
        "requests": requests.per_object(before, around.requests(), count),
        "clients": requests.per_object(asked, around.asked(), count),
        "events": {what: number / count for what, number in events_written(folder).items()},
        "timeline": {
            name: {what: round(at - began, 4) for what, at in times.items()}
            for name, times in found.items()
        },
    }


@asynccontextmanager
async def prepared(
    contest: Contest, *, audited: bool = False
) -> AsyncIterator[tuple[World, Operator | None]]:
    """A new cluster, warm, with the operator if it takes part."""
    with world(audited=audited) as around:
        with contest.beside(around) as ours:
            await life(around, contest, "warm", WARM_UP)
            yield around, ours
        await around.connection.close()


async def run(contest: Contest, count: int, *, audited: bool = False) -> Record:
    """One life of so many objects."""
    async with prepared(contest, audited=audited) as (around, ours):
        record = await life(around, contest, "run", count)
        if ours is not None:
            record["own_requests"] = {
                what: value
                for what, value in ours.metrics().items()
                if "api_requests_total" in what
            }
        return record


async def grown(count: int) -> Record:
    """Life, idle time, jobs on top, and a restart of the operator, with so many jobs there."""
    async with prepared(OPERATED) as (around, ours):
        assert ours is not None
        record = await life(around, OPERATED, "run", count)
        meter = around.meter()
        await asyncio.sleep(IDLE_SECONDS)
        record["idle"] = {name: used._asdict() for name, used in meter.read().items()}
        record["idle"]["seconds"] = IDLE_SECONDS
        on_top = OPERATED._replace(create=steadily(5))
        record["on_top"] = await life(around, on_top, "top", 50)
        record["resident_mib"] = psutil.Process(ours.pid).memory_info().rss / 2**20
        ours.stop(signal.SIGKILL)
        began = time.monotonic()
        ours.start()
        wait_until("the operator is ready", lambda: bool(ours.metrics()), seconds=300)
        record["restart_ready_seconds"] = time.monotonic() - began
        await settled([psutil.Process(ours.pid)])
        record["restart_settled_seconds"] = time.monotonic() - began - SETTLED_SECONDS
        kept = ("aligntunejobs", "jobs", "pods")
        wait_until("sizes are estimated", lambda: around.stored().keys() >= set(kept), seconds=300)
        record["stored_bytes"] = around.stored()
        record["restarted_mib"] = psutil.Process(ours.pid).memory_info().rss / 2**20
        return record


async def settled(controllers: Collection[psutil.Process]) -> None:
    """Waits until none of them has anything left to do."""

    def used() -> float:
        return sum(sum(controller.cpu_times()[:2]) for controller in controllers)

    share = 1.0
    while share > SETTLED_SHARE:
        before = used()
        await asyncio.sleep(SETTLED_SECONDS)
        share = (used() - before) / SETTLED_SECONDS


OPERATED = Contest("AlignTuneJob", OURS, at_once, operator)
FLOOR = Contest("floor", PLAIN, bare_writes, nobody)
CREATING = Contest("floor with creation", PLAIN, bare_life, nobody)
BARE = Contest("Job", PLAIN, at_once, nobody)
PEER = Contest("TrainJob", THEIRS, at_once, peer)
RAISED = Contest("TrainJob with raised limits", THEIRS, at_once, peer_with_raised_limits)
