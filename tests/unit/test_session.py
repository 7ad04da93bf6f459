import aiohttp
import pytest
from aiohttp import web

from aligntune_operator.session import REFUSED_SECONDS, beats, waits_where_refused


@pytest.mark.parametrize("refusal", [401, 403, 404])
async def test_a_refused_watch_is_asked_for_again_until_it_is_granted_and_told_of_once(
    refusal: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time is a sign of life; what kopf asks for once, at its start, is none."""
    statuses, waits, heard = [refusal, refusal, 200, 200], list[float](), list[str]()

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=statuses.pop(0), text="watched")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    middlewares = (waits_where_refused(sleep), beats(heard.append))
    group = "/apis/aligntune.io/v1alpha1"
    async with aiohttp.ClientSession(f"http://{host}:{port}", middlewares=middlewares) as session:
        async with session.get(f"{group}/aligntunejobs?watch=true") as response:
            assert await response.text() == "watched"
        async with session.get(group) as response:
            assert response.ok
    await runner.cleanup()
    assert waits == [REFUSED_SECONDS] * 2
    assert heard == [f"{group}/aligntunejobs"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"the watch of {group}/aligntunejobs is refused ({refusal}): asking on"
    ]
