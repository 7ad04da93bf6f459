"""The hub's answers may be anybody's: whatever it says, it is asked little and believed less."""

import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web

from aligntune_operator.hub import KEPT_FOR, LONGEST_CONFIG, MOST_KEPT, SILENT_FOR, Hub
from aligntune_operator.memory import HubModel

CHAT = HubModel("acme/chat", "main")
CONFIG = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


class AskedHub:
    """A hub that gives one answer to everything, asked by the client under test."""

    def __init__(self) -> None:
        self.answers: dict[str, web.Response] = {}
        self.requests: list[web.BaseRequest] = []
        self.now = datetime(2026, 11, 1, tzinfo=UTC)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request)
        answer = self.answers.get(request.raw_path, self.answers["any"])
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


@pytest.fixture
async def asked() -> AskedHub:
    return AskedHub()


@pytest.fixture
async def hub(asked: AskedHub) -> AsyncIterator[Hub]:
    runner = web.ServerRunner(web.Server(asked.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield Hub(session, f"http://127.0.0.1:{runner.addresses[0][1]}/", lambda: asked.now)
    await runner.cleanup()


async def test_a_models_config_is_read_at_its_revision_and_without_a_token(
    asked: AskedHub, hub: Hub
) -> None:
    asked.answers["any"] = web.json_response(CONFIG)
    shape = await hub.shape(HubModel("acme/chat", "refs/pr/1"))
    assert shape is not None
    assert (shape.layers, shape.hidden) == (2, 64)
    [request] = asked.requests
    assert request.raw_path == "/acme/chat/resolve/refs%2Fpr%2F1/config.json"
    assert "Authorization" not in request.headers


async def test_what_is_known_is_not_asked_again_for_an_hour(asked: AskedHub, hub: Hub) -> None:
    asked.answers["any"] = web.json_response(CONFIG)
    assert await hub.shape(CHAT) == await hub.shape(CHAT)
    assert len(asked.requests) == 1
    asked.now += KEPT_FOR
    await hub.shape(CHAT)
    assert len(asked.requests) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_model_that_is_not_for_everybody_is_not_asked_for_again_and_others_are(
    asked: AskedHub, hub: Hub, status: int
) -> None:
    asked.answers["any"] = web.Response(status=status)
    assert await hub.shape(CHAT) is None
    assert await hub.shape(CHAT) is None
    assert len(asked.requests) == 1
    asked.answers["any"] = web.json_response(CONFIG)
    assert await hub.shape(HubModel("acme/other", "main")) is not None


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_hub_in_trouble_is_left_alone_for_a_minute(
    asked: AskedHub, hub: Hub, status: int
) -> None:
    asked.answers["any"] = web.Response(status=status)
    assert await hub.shape(CHAT) is None
    asked.answers["any"] = web.json_response(CONFIG)
    assert await hub.shape(HubModel("acme/other", "main")) is None
    assert len(asked.requests) == 1
    asked.now += SILENT_FOR
    assert await hub.shape(CHAT) is not None


async def test_a_hub_that_is_not_there_is_left_alone_too(asked: AskedHub) -> None:
    async with aiohttp.ClientSession() as session:
        nowhere = Hub(session, "http://127.0.0.1:1", lambda: asked.now)
        assert await nowhere.shape(CHAT) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 100_000,
        b'{"model_type": "llama"}',
        json.dumps(CONFIG | {"num_hidden_layers": 10**12}).encode(),
        json.dumps(CONFIG | {"model_type": "mystery"}).encode(),
        b'{"vocab_size": 1' + b"0" * 5000 + b"}",
        json.dumps(CONFIG | {"x": "x" * LONGEST_CONFIG}).encode(),
        b"\xff\xfe",
    ],
    ids=["empty", "html", "list", "deep", "incomplete", "layers", "unknown", "digits", "large",
         "bytes"],
)  # fmt: skip
async def test_an_answer_that_is_no_shape_is_none(asked: AskedHub, hub: Hub, body: bytes) -> None:
    asked.answers["any"] = web.Response(body=body)
    assert await hub.shape(CHAT) is None


async def test_an_answer_that_unpacks_is_not_unpacked(asked: AskedHub, hub: Hub) -> None:
    packed = gzip.compress(json.dumps(CONFIG).encode())
    asked.answers["any"] = web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    assert await hub.shape(CHAT) is None


async def test_a_redirect_within_the_hub_is_followed(asked: AskedHub, hub: Hub) -> None:
    asked.answers["any"] = web.Response(status=307, headers={"Location": "/cache/config.json?x=1"})
    asked.answers["/cache/config.json?x=1"] = web.json_response(CONFIG)
    assert await hub.shape(CHAT) is not None


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2/x", "https://127.0.0.1/x", "//169.254.169.254/", "file:///etc/passwd", ""],
)
async def test_a_redirect_to_anywhere_else_is_not(asked: AskedHub, hub: Hub, location: str) -> None:
    asked.answers["any"] = web.Response(status=302, headers={"Location": location})
    assert await hub.shape(CHAT) is None
    assert len(asked.requests) == 1


async def test_redirects_come_to_an_end(asked: AskedHub, hub: Hub) -> None:
    for number in range(10):
        path = f"/{number}" if number else "any"
        there = {"Location": f"/{number + 1}"}
        asked.answers[path] = web.Response(status=302, headers=there)
    assert await hub.shape(CHAT) is None
    assert len(asked.requests) == 4


async def test_no_more_answers_are_kept_than_fit(asked: AskedHub, hub: Hub) -> None:
    asked.answers["any"] = web.Response(status=404)
    for number in range(MOST_KEPT + 10):
        await hub.shape(HubModel(f"acme/{number}", "main"))
    assert len(hub._kept) == MOST_KEPT
    asked.now += timedelta(seconds=1)
    count = len(asked.requests)
    await hub.shape(HubModel(f"acme/{MOST_KEPT}", "main"))
    assert len(asked.requests) == count
