"""What is asked, of whom and how often, before a job's memory is told."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aligntune.api.job import AlignTuneJobSpec
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import METADATA, ApiError, Cluster
from aligntune_operator.estimator import NODES_KEPT_FOR, Estimator, warn_forever
from aligntune_operator.hub import Hub
from aligntune_operator.observe import Key
from tests.cluster.processes import async_wait_until
from tests.hub.configs import LLAMA_8B

SFT = {"model": {"name": "acme/chat"}, "datasets": [{"name": "d"}]}


def spec_of(**sections: Any) -> AlignTuneJobSpec:
    return AlignTuneJobSpec.parse({"sft": SFT, "storage": {"claimName": "c"}} | sections)


class World:
    """An estimator, and what stands for the API server and for the hub at the end of the wire."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.nodes: list[Mapping[str, str]] = [{"nvidia.com/gpu.memory": "8192"}]
        self.status = 200
        self.requests: list[web.BaseRequest] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request)
        if not request.path.startswith("/api/"):
            return web.json_response(LLAMA_8B)
        items = [{"metadata": {"labels": labels}} for labels in self.nodes]
        # An empty list of metadata has null in place of its items.
        listed = {"metadata": {"resourceVersion": "1"}, "items": items or None, "message": "no"}
        return web.json_response(listed, status=self.status)

    @property
    def asked(self) -> list[str]:
        return [request.path for request in self.requests]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def estimator(world: World) -> AsyncIterator[Estimator]:
    runner = web.ServerRunner(web.Server(world.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    async with aiohttp.ClientSession() as session:
        cluster = Cluster(session, url, lambda *_: None, may_write=lambda: False)
        hub = Hub(session, url, lambda: world.now)
        yield Estimator(cluster, hub, lambda: world.now, random.Random(1))
    await runner.cleanup()


async def test_nodes_tell_their_metadata_alone_and_are_asked_once_a_minute(
    world: World, estimator: Estimator
) -> None:
    assert "has 8.0 GiB" in await estimator.shortage(spec_of(), ())
    assert await estimator.shortage(spec_of(), ())
    nodes, config = world.requests
    assert (nodes.path, config.path) == ("/api/v1/nodes", "/acme/chat/resolve/main/config.json")
    assert nodes.headers["Accept"] == METADATA
    assert nodes.query["labelSelector"] == "nvidia.com/gpu.memory"
    world.nodes = [{"nvidia.com/gpu.memory": "81920"}]
    world.now += NODES_KEPT_FOR
    assert await estimator.shortage(spec_of(), ()) == ""


async def test_the_hub_is_not_asked_where_no_node_tells_its_memory(
    world: World, estimator: Estimator
) -> None:
    world.nodes = []
    assert await estimator.shortage(spec_of(), ()) == ""
    assert world.asked == ["/api/v1/nodes"]


async def test_nobody_is_asked_about_a_job_without_gpus(world: World, estimator: Estimator) -> None:
    assert await estimator.shortage(spec_of(runtime={"gpusPerNode": 0}), ()) == ""
    assert world.asked == []


async def test_without_the_right_to_list_nodes_there_is_no_estimate(
    world: World, estimator: Estimator
) -> None:
    world.status = 403
    assert await estimator.shortage(spec_of(), ()) == ""
    assert await estimator.shortage(spec_of(), ()) == ""
    assert world.asked == ["/api/v1/nodes"]


async def test_an_api_server_in_trouble_is_asked_again(world: World, estimator: Estimator) -> None:
    world.status = 500
    with pytest.raises(ApiError):
        await estimator.shortage(spec_of(), ())
    world.status = 200
    assert await estimator.shortage(spec_of(), ())


async def test_the_reward_model_takes_its_share(world: World, estimator: Estimator) -> None:
    world.nodes = [{"nvidia.com/gpu.memory": str(40 * 1024)}]
    model = {"name": "acme/chat", "quantization": {"bits": 4}, "maxLength": 512}
    rl = {"algo": "ppo", "model": model, "datasets": [{"name": "d"}]}
    rewards = {"rewards": [{"name": "length"}]}
    scored = {"rewardModel": {"name": "acme/judge"}}
    alone = AlignTuneJobSpec.parse({"rl": rl | rewards, "storage": {"claimName": "c"}})
    both = AlignTuneJobSpec.parse({"rl": rl | scored, "storage": {"claimName": "c"}})
    await estimator.shortage(alone, ())
    assert "/acme/judge/resolve/main/config.json" not in world.asked
    await estimator.shortage(both, ())
    assert "/acme/judge/resolve/main/config.json" in world.asked


def body(name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "1"}
    spec = {"sft": SFT, "storage": {"claimName": "c"}}
    when = {"generation": 1, "creationTimestamp": "2026-11-01T00:00:00Z"}
    return {"metadata": metadata | when, "spec": spec}


async def test_a_job_that_cannot_be_estimated_now_does_not_keep_others_from_their_warning(
    world: World, estimator: Estimator
) -> None:
    cache, told = Cache(), asyncio.Event()
    for name in ("first", "second"):
        cache.take_object(body(name))
    world.status = 500
    first, second = Key("ns", "first"), Key("ns", "second")

    def changed(key: Key) -> None:
        assert key == second
        told.set()

    warning = asyncio.create_task(warn_forever(estimator, cache, changed))
    estimator.begun.add(first)
    await async_wait_until("the first is asked about", lambda: world.asked)
    world.status = 200
    estimator.begun.add(Key("ns", "gone"))
    estimator.begun.add(second)
    async with asyncio.timeout(30):
        await told.wait()
    warning.cancel()
    with suppress(asyncio.CancelledError):
        await warning
    known = {name: cache.observe(Key("ns", name)) for name in ("first", "second")}
    assert {name: bool(seen and seen.shortage) for name, seen in known.items()} == {
        "first": False,
        "second": True,
    }
    cache.forget_object(body("second"))
    cache.take_object(body("second"))
    again = cache.observe(second)
    assert again is not None
    assert again.shortage == ""
