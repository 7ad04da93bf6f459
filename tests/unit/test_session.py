from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from aligntune_operator.session import (
    REFUSED_SECONDS,
    asks_until_answered,
    beats,
    rotating_token,
)


@pytest.mark.parametrize("refusal", [401, 403, 404, 500, 504])
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
    middlewares = (asks_until_answered(sleep), beats(heard.append))
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
        f"{group}/aligntunejobs is answered with {refusal}: asking on"
    ]


async def test_a_token_that_is_refused_is_read_anew_and_not_only_after_a_minute(
    tmp_path: Path,
) -> None:
    file, sent = tmp_path / "token", list[str]()

    async def answer(request: web.BaseRequest) -> web.Response:
        sent.append(request.headers["Authorization"])
        return web.Response(status=401 if sent[-1] == "Bearer expired" else 200)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    middlewares = (rotating_token(file, lambda: 0.0),)
    file.write_text("expired")
    async with aiohttp.ClientSession(site.name, middlewares=middlewares) as session:
        for _ in range(2):
            async with session.get("/"):
                file.write_text("renewed")
    await runner.cleanup()
    assert sent == ["Bearer expired", "Bearer renewed"]
