import asyncio
import gc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aligntune_operator.cluster import ApiError, Cluster
from aligntune_operator.explanations import SHARED_FOR, Explanations

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Events(Cluster):
    """A stand-in for the API server: what it holds, and how often it was asked."""

    def __init__(self, newest: dict[str, tuple[str, str]]) -> None:
        self.newest, self.asked, self.fails = newest, 0, False
        self.time_passes = lambda: None

    async def newest_events(self, namespace: str) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        self.time_passes()
        if self.fails:
            raise ApiError(500, namespace)
        return dict(self.newest)


class World:
    def __init__(self) -> None:
        self.now = NOW
        self.events = Events({"pod-a": ("1", "Failed: a"), "job-a": ("2", "FailedCreate: b")})
        self.explanations = Explanations(self.events, lambda: self.now)


async def test_the_newest_event_about_any_of_the_objects_is_told() -> None:
    newest = World().explanations.newest
    assert await newest("research", ("pod-a", "job-a")) == "FailedCreate: b"
    assert await newest("research", ("pod-a", "unheard-of")) == "Failed: a"
    assert await newest("research", ("unheard-of",)) == ""


async def test_a_thousand_jobs_that_ask_at_once_cost_one_reading_of_their_namespace() -> None:
    world = World()
    for _ in range(1000):
        await world.explanations.newest("research", ("pod-a",))
    assert world.events.asked == 1
    await world.explanations.newest("another", ("pod-a",))
    assert world.events.asked == 2


async def test_what_is_too_old_is_read_again() -> None:
    world = World()
    await world.explanations.newest("research", ("pod-a",))
    world.now += SHARED_FOR
    world.events.newest["pod-a"] = ("3", "Pulled: c")
    assert await world.explanations.newest("research", ("pod-a",)) == "Pulled: c"


async def test_what_could_not_be_read_is_asked_again() -> None:
    world = World()
    world.events.fails = True
    with pytest.raises(ApiError):
        await world.explanations.newest("research", ("pod-a",))
    world.events.fails = False
    world.now += timedelta(seconds=1)
    assert await world.explanations.newest("research", ("pod-a",)) == "Failed: a"


async def test_a_reading_that_takes_long_is_shared_for_at_least_as_long() -> None:
    """Else each job that waits reads all Events of its namespace again, one after the other."""
    world, took = World(), 2 * SHARED_FOR

    def time_passes() -> None:
        world.now += took

    world.events.time_passes = time_passes
    asks = (world.explanations.newest("research", ("pod-a",)) for _ in range(20))
    assert await asyncio.gather(*asks) == ["Failed: a"] * 20
    assert world.events.asked == 1
    world.now += took - timedelta(seconds=1)
    await world.explanations.newest("research", ("pod-a",))
    assert world.events.asked == 1
    world.now += timedelta(seconds=1)
    await world.explanations.newest("research", ("pod-a",))
    assert world.events.asked == 2


async def test_nothing_is_kept_of_a_namespace_that_nobody_asks_about_any_more() -> None:
    world = World()

    def locks() -> int:
        gc.collect()
        return sum(isinstance(thing, asyncio.Lock) for thing in gc.get_objects())

    before = locks()
    for number in range(100):
        await world.explanations.newest(f"pull-request-{number}", ("pod-a",))
    assert locks() == before
