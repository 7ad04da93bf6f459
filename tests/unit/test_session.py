import aiohttp
from aiohttp import web

from aligntune_operator.session import REFUSED_SECONDS, waits_where_refused


async def test_a_refused_watch_is_asked_for_again_until_the_credentials_are_taken() -> None:
    statuses, waits = [401, 401, 200], []

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=statuses.pop(0), text="watched")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with (
        aiohttp.ClientSession(middlewares=(waits_where_refused(sleep),)) as session,
        session.get(f"http://{host}:{port}/") as response,
    ):
        assert await response.text() == "watched"
    await runner.cleanup()
    assert waits == [REFUSED_SECONDS] * 2
