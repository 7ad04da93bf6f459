"""Whole lists beside the watches: what they may bring, and what counts as missed by a watch."""

from collections.abc import Callable
from typing import Any

import pytest

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import JOBS, ApiError, Cluster, Kind
from aligntune_operator.observe import Key
from aligntune_operator.relist import compare, feeds, relist

CHAT = Key("research", "chat")


def job(name: str, version: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "research",
            "uid": f"{name}-uid",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-01T12:00:00Z",
            "labels": {"aligntune.io/job-name": "chat"},
        },
    }


class Jobs(Cluster):
    """A stand-in for the API server: what it lists, and what happens while it is asked."""

    def __init__(self, *items: dict[str, Any], meanwhile: Callable[[], object] = dict) -> None:
        self.items, self.meanwhile, self.fails = items, meanwhile, False

    async def list(self, kind: Kind, _: str | None, take: Callable[[dict[str, Any]], None]) -> int:
        if self.fails:
            raise ApiError(500, "no")
        if kind is JOBS:
            self.meanwhile()
            for item in self.items:
                take(item)
        return 10


def known(cache: Cache) -> list[str]:
    return [state.name for state in cache.jobs.of(CHAT)]


async def test_a_list_does_not_bring_back_what_went_while_it_was_read() -> None:
    cache, shown = Cache(), job("chat-1", 5)
    cache.take_job(shown)
    told = list[Key]()
    cluster = Jobs(shown, job("chat-2", 6), meanwhile=lambda: cache.forget_job(job("chat-1", 11)))
    _, jobs, _ = feeds(cache)
    await relist(cluster, jobs, None, told.append)
    assert known(cache) == ["chat-2"]
    assert told == [CHAT]


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_remembered_of_what_went_once_the_list_is_read(fails: bool) -> None:
    """Whoever takes a label off and puts it back has the watch tell of an end and a beginning."""
    cache = Cache()
    cluster = Jobs(meanwhile=lambda: cache.forget_job(job("chat-1", 9)))
    _, jobs, _ = feeds(cache)
    await relist(cluster, jobs, None, lambda _: None)
    if fails:
        cluster.fails = True
        with pytest.raises(ApiError):
            await relist(cluster, jobs, None, lambda _: None)
    cache.take_job(job("chat-1", 12))
    assert known(cache) == ["chat-1"]


async def test_only_what_the_watch_does_not_tell_soon_after_the_list_counts_as_missed() -> None:
    """Of what went just before the list was made, the watch's word is on its way."""
    cache, missed, told = Cache(), list[None](), list[Key]()
    for number in (1, 2):
        cache.take_job(job(f"chat-{number}", number))

    async def sleep(_: float) -> None:
        cache.forget_job(job("chat-1", 9))
        cache.take_job(job("chat-3", 11))

    await compare(Jobs(), cache, (), told.append, lambda: missed.append(None), sleep=sleep)
    assert len(missed) == 1
    assert told == [CHAT]
    assert known(cache) == ["chat-3"]


async def test_nothing_counts_as_missed_where_the_list_could_not_be_had() -> None:
    cache, missed = Cache(), list[None]()
    cache.take_job(job("chat-1", 1))
    cluster = Jobs()
    cluster.fails = True

    async def sleep(_: float) -> None: ...

    await compare(cluster, cache, (), lambda _: None, lambda: missed.append(None), sleep=sleep)
    assert missed == []
    assert known(cache) == ["chat-1"]
