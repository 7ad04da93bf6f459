import aiohttp
from aiohttp import web

from aligntune_operator.session import REFUSED_SECONDS, beats, waits_where_refused


async def test_a_refused_watch_is_asked_for_again_until_the_credentials_are_taken() -> None:
    """Each time is a sign of life; what kopf asks for once, at its start, is none."""
    statuses, waits, heard = [401, 401, 200, 200], list[float](), list[str]()

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
