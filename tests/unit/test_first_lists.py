"""What the operator knows before its first decision; an HTTP server plays the API server."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice, pairwise

import pytest
from aiohttp import ClientSession, web

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import Cluster, RefusedError
from aligntune_operator.handlers import kopf_settings
from aligntune_operator.relist import list_first


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


async def test_a_start_waits_for_an_api_server_that_is_out_of_order_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    statuses, waits = [503, 500, 200, 200, 200], list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with answering(lambda _: statuses.pop(0)) as cluster:
        listed = await list_first(cluster, Cache(), (), lambda _: None, sleep)
    assert [since.version for since in listed] == [5, 5, 5]
    assert len(waits) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "aligntunejobs cannot be listed (503: no): waiting"
    ]


async def test_a_start_that_may_not_list_ends() -> None:
    async with answering(lambda _: 403) as cluster:
        with pytest.raises(RefusedError):
            await list_first(cluster, Cache(), (), lambda _: None)


def test_kopf_never_gives_an_api_server_up_and_begins_each_spell_soon() -> None:
    backoffs = kopf_settings().networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):
        waits = list(islice(backoffs, 1000))
        assert len(waits) == 1000
        assert waits[0] <= 1
        assert all(before <= after <= 30 for before, after in pairwise(waits))
