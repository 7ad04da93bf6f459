"""What the operator knows before its first decision; an HTTP server plays the API server."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice, pairwise
from typing import Any

import pytest
from aiohttp import ClientSession, web

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import Cluster, RefusedError
from aligntune_operator.handlers import kopf_settings
from aligntune_operator.observe import Key
from aligntune_operator.relist import list_at_last, list_first


def align_tune_job(key: Key) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": key.namespace,
            "name": key.name,
            "uid": "uid",
            "resourceVersion": "6",
            "generation": 1,
            "creationTimestamp": "2026-11-01T12:00:00Z",
        },
        "spec": {},
    }


@asynccontextmanager
async def answering(status: Callable[[str], int]) -> AsyncIterator[Cluster]:
    """An API server that answers the list at each path with this status; lists are empty."""

    async def answer(request: web.BaseRequest) -> web.Response:
        body = {"metadata": {"resourceVersion": "5"}, "items": [], "message": "no"}
        return web.json_response(body, status=status(request.path))

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with ClientSession() as session:
        server = f"http://{host}:{port}"
        yield Cluster(session, server, lambda *_: None, may_write=lambda: False)
    await runner.cleanup()


@pytest.mark.parametrize("first", [503, 429])
async def test_a_start_waits_for_an_api_server_that_is_out_of_order_and_says_so_once(
    caplog: pytest.LogCaptureFixture, first: int
) -> None:
    statuses, waits = [first, 500, 200, 200, 200], list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with answering(lambda _: statuses.pop(0)) as cluster:
        listed = await list_first(cluster, Cache(), None, lambda _: None, sleep)
    assert [since.version for since in listed] == [5, 5, 5]
    assert len(waits) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"the lists could not be had ({first}: no): waiting for the API server"
    ]


async def test_a_namespace_that_refuses_is_decided_on_once_it_may_be_listed() -> None:
    """Until then a Job there may be one that is merely not seen."""
    cache, key, changed = Cache(), Key("gone", "chat"), list[Key]()
    refused = ["403 at the first list", "403 at the second"]

    def status(_: str) -> int:
        return 403 if refused and refused.pop() else 200

    async def seen_by_kopf(_: float) -> None:
        cache.take_object(align_tune_job(key))
        assert cache.observe(key) is None

    async with answering(status) as cluster:
        assert await list_first(cluster, cache, "gone", changed.append) == []
        listed = await list_at_last(
            cluster, cache, "gone", changed.append, asks=lambda: None, sleep=seen_by_kopf
        )
    assert [since.version for since in listed] == [5, 5, 5]
    assert changed == [key]
    assert cache.observe(key) is not None


async def test_a_start_that_may_not_list_ends() -> None:
    async with answering(lambda _: 403) as cluster:
        with pytest.raises(RefusedError):
            await list_first(cluster, Cache(), None, lambda _: None)


def test_kopf_never_gives_an_api_server_up_and_begins_each_spell_soon() -> None:
    backoffs = kopf_settings().networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):
        waits = list(islice(backoffs, 1000))
        assert len(waits) == 1000
        assert waits[0] <= 1
        assert all(before <= after <= 30 for before, after in pairwise(waits))
