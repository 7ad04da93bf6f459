"""Leader election: one at a time, soon after the last, and nobody who was away too long."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from aligntune_operator.cluster import ApiError, ConflictError, GoneError
from aligntune_operator.leader import Elector, Leadership

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Store:
    """A Lease as the API server keeps it: a write must name the version it was made from."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False

    async def read(self) -> dict[str, Any]:
        if self.away:
            raise ApiError(0, "no answer")
        if self.lease is None:
            raise GoneError(404, "none")
        return self.lease

    async def write(self, manifest: Any) -> dict[str, Any]:
        if self.away:
            raise ApiError(0, "no answer")
        if manifest["metadata"].get("resourceVersion", "0") != str(self.version):
            raise ConflictError(409, "changed")
        self.version += 1
        metadata = {"resourceVersion": str(self.version)}
        self.lease = {"metadata": metadata, "spec": manifest["spec"]}
        return self.lease


class Replica:
    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        store: Store,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.leadership = Leadership(clock)
        self.elector = Elector(self.leadership, name, lambda: NOW, sleep)
        self.store = store

    def tries(self) -> bool:
        """One round of the election; whether it leads now."""
        asyncio.run(self.elector._try(self.store))
        return self.leadership.holds()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def world() -> tuple[Clock, Store, Replica, Replica]:
    clock, store = Clock(), Store()
    return clock, store, Replica("a", clock, store), Replica("b", clock, store)


def test_the_first_to_come_leads_and_the_other_waits() -> None:
    clock, _, a, b = world()
    assert a.tries()
    assert not b.tries()
    for _ in range(20):
        clock.now += 2
        assert a.tries()
        assert not b.tries()


def test_the_other_takes_over_when_the_lease_has_not_changed_for_its_duration() -> None:
    clock, store, a, b = world()
    a.tries()
    b.tries()
    clock.now += 15
    assert not b.tries()
    clock.now += 0.1
    assert b.tries()
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 2


def test_a_leader_that_was_stopped_past_its_lease_knows_before_it_asks() -> None:
    clock, _, a, b = world()
    a.tries()
    b.tries()
    clock.now += 15
    assert not a.leadership.holds()
    clock.now += 1
    assert b.tries()
    assert not a.tries()


def test_a_released_lease_is_taken_at_once() -> None:
    _, _, a, b = world()
    a.tries()
    b.tries()
    asyncio.run(a.elector.release(a.store))
    assert not a.leadership.holds()
    assert b.tries()


def test_two_that_try_at_the_same_moment_do_not_both_lead() -> None:
    _, store, a, b = world()

    async def both() -> None:
        await asyncio.gather(a.elector._try(store), b.elector._try(store))

    asyncio.run(both())
    assert [a.leadership.holds(), b.leadership.holds()].count(True) == 1


def test_a_leader_that_cannot_renew_gives_up_before_another_may_begin() -> None:
    clock, store = Clock(), Store()

    async def passes(seconds: float) -> None:
        clock.now += seconds

    a = Replica("a", clock, store, passes)
    a.tries()
    store.away = True
    began = clock.now
    asyncio.run(a.elector.hold(store, lambda: False))
    assert not a.leadership.holds()
    assert clock.now - began < 15


def test_a_short_outage_of_the_api_server_does_not_cost_the_leadership() -> None:
    clock, store, a, b = world()
    a.tries()
    b.tries()
    store.away = True
    clock.now += 8
    assert a.tries()
    store.away = False
    assert a.tries()
    clock.now += 10
    assert a.leadership.holds()
    assert not b.tries()


def test_an_outage_of_the_api_server_is_told_of_at_its_begin_and_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    clock, store, a, b = world()
    a.tries()
    for _ in range(2):
        store.away = True
        for _ in range(3):
            clock.now += 1
            b.tries()
        store.away = False
        for _ in range(2):
            b.tries()
    assert [record.getMessage() for record in caplog.records] == [
        "the Lease cannot be reached (0: no answer): trying on",
        "the Lease can be reached again",
    ] * 2
