"""Events whose write fails are written later, in order, in bounds, and hold nothing up."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aligntune_operator.cluster import Cluster, NotLeadingError
from aligntune_operator.observe import Key
from aligntune_operator.outbox import MOST_WAITING, OLDEST, YIELDS_FOR, Outbox
from aligntune_operator.status.events import Event, Posting
from tests.cluster.processes import async_wait_until

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def nobody() -> bool:
    """No job waits that is more urgent."""
    return False


class World:
    """An outbox, and what stands for the API server at the other end of the wire."""

    def __init__(self) -> None:
        self.now = NOW
        self.dropped = 0
        self.refusals: dict[str, list[int]] = {}
        """Statuses that a job's next Events are answered with; 0: written, and the answer lost."""
        self.written: dict[str, dict[str, Any]] = {}
        self.asked = 0
        self.others_wait = False
        self.looks = 0
        self.outbox = Outbox(
            random.Random(1), lambda: self.now, self.drop, others_first=self.others_first
        )

    def drop(self) -> None:
        self.dropped += 1

    def others_first(self) -> bool:
        self.looks += 1
        return self.others_wait

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        event = await request.json()
        refusals = self.refusals.get(event["involvedObject"]["name"], [])
        status = refusals.pop(0) if refusals else 201
        if status > 201:
            return web.json_response({"message": "no"}, status=status)
        if event["metadata"]["name"] in self.written:
            return web.json_response({"message": "already exists"}, status=409)
        self.written[event["metadata"]["name"]] = event
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(event, status=201)

    def post(self, message: str, job: str = "chat") -> None:
        self.outbox.post(Posting(Key("ns", job), "uid", 1, Event("Normal", "R", message), self.now))

    def told(self, job: str = "chat") -> list[str]:
        events = self.written.values()
        return [event["message"] for event in events if event["involvedObject"]["name"] == job]

    async def idle(self) -> None:
        await async_wait_until("the outbox is empty", lambda: not len(self.outbox))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    runner = web.ServerRunner(web.Server(world.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        cluster = Cluster(session, url, lambda *_: None, may_write=lambda: True)
        sending = asyncio.create_task(world.outbox.send_forever(cluster))
        yield world
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
    await runner.cleanup()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_event_whose_write_fails_is_written_later_and_before_the_next(
    world: World, status: int
) -> None:
    world.refusals["chat"] = [status, status]
    world.post("first")
    world.post("second")
    await world.idle()
    assert world.told() == ["first", "second"]
    assert world.dropped == 0


async def test_an_event_whose_answer_was_lost_is_not_written_twice(world: World) -> None:
    world.refusals["chat"] = [0]
    world.post("first")
    await world.idle()
    assert world.asked == 2
    assert world.told() == ["first"]
    assert world.dropped == 0


async def test_the_same_words_at_another_time_are_another_event(world: World) -> None:
    world.post("again")
    world.now += timedelta(seconds=1)
    world.post("again")
    await world.idle()
    assert world.told() == ["again", "again"]


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_an_event_that_is_refused_is_dropped_and_the_next_is_written(
    world: World, status: int
) -> None:
    world.refusals["chat"] = [status]
    world.post("first")
    world.post("second")
    await world.idle()
    assert world.told() == ["second"]
    assert (world.dropped, world.asked) == (1, 2)


async def test_an_event_that_is_too_old_is_dropped(world: World) -> None:
    world.refusals["chat"] = [500] * 3
    world.post("first")
    world.now += OLDEST
    world.post("second")
    await world.idle()
    assert world.told() == ["second"]
    assert world.dropped == 1


async def test_an_event_waits_for_what_is_more_urgent_but_not_for_ever(world: World) -> None:
    world.others_wait = True
    world.post("first")
    await async_wait_until("it looks again and again", lambda: world.looks >= 3)
    assert world.told() == []
    world.now += YIELDS_FOR
    await world.idle()
    assert world.told() == ["first"]


async def test_one_jobs_events_do_not_wait_for_anothers(world: World) -> None:
    world.refusals["stuck"] = [500] * 1000
    for number in range(10):
        world.post(str(number), "stuck")
    world.post("hello")
    await async_wait_until("one is written", lambda: len(world.outbox) == 10)
    assert world.told() == ["hello"]


def test_no_more_events_wait_than_there_is_room_for() -> None:
    dropped = []
    outbox = Outbox(random.Random(1), lambda: NOW, lambda: dropped.append(1), others_first=nobody)
    for number in range(MOST_WAITING + 3):
        event = Event("Normal", "R", str(number))
        outbox.post(Posting(Key("ns", f"job-{number % 7}"), "uid", 1, event, NOW))
    assert len(outbox) == MOST_WAITING
    assert len(dropped) == 3


async def test_a_replica_that_leads_no_more_ends_over_an_event_that_waits() -> None:
    outbox = Outbox(random.Random(1), lambda: NOW, lambda: None, others_first=nobody)
    outbox.post(Posting(Key("ns", "chat"), "uid", 1, Event("Normal", "R", "late"), NOW))
    async with aiohttp.ClientSession() as session:
        cluster = Cluster(session, "http://127.0.0.1:1", lambda *_: None, may_write=lambda: False)
        with pytest.raises(BaseExceptionGroup) as caught:
            await outbox.send_forever(cluster)
    assert caught.group_contains(NotLeadingError)
