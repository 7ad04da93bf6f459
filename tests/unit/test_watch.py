"""Watches of Jobs and pods outlive what an API server does to them (played by an HTTP server)."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import ClientSession, web

from aligntune_operator.cache import Cache
from aligntune_operator.cluster import Cluster
from aligntune_operator.observe import Key
from aligntune_operator.relist import Listed, feeds, relist
from aligntune_operator.watch import watch_forever, watch_namespace

CHAT = Key("research", "chat")
EXPIRED = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}


def job(version: int, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "chat-1",
            "namespace": "research",
            "uid": "uid-1",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"aligntune.io/job-name": "chat", "aligntune.io/attempt": "1"},
        },
        "status": status,
    }


def started(version: int) -> dict[str, Any]:
    return job(version, startTime="2026-01-01T00:00:01Z")


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Watching = tuple[Cache, asyncio.Queue[Key], asyncio.Queue[str]]


def stream(*events: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    return answer


def page(version: int, *items: Any) -> Answer:
    body = {"metadata": {"resourceVersion": str(version)}, "items": items}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def refusal(status: int) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"message": "no"}, status=status)

    return answer


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def watching(
    *answers: Answer, beat: Callable[[], None] = lambda: None, pods_first: bool = False
) -> AsyncIterator[Watching]:
    """A watch of Jobs from version 10 on: its cache, the keys to look at, what was asked."""
    left, asked, changed = list(answers), asyncio.Queue[str](), asyncio.Queue[Key]()

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.put_nowait(request.query.get("resourceVersion", "list"))
        if not left:
            await asyncio.Event().wait()
        return await left.pop(0)(request)

    async def list_pods(request: web.Request) -> web.StreamResponse:
        asked.put_nowait("pods after jobs" if [*cache.jobs.of(CHAT)] else "pods")
        return await page(20)(request)

    application = web.Application()
    runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True)
    application.router.add_get("/apis/batch/v1/jobs", serve)
    application.router.add_get("/api/v1/pods", list_pods)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    cache = Cache()
    async with ClientSession() as session:
        cluster = Cluster(session, site.name, lambda *_: None, may_write=lambda: False)
        _, jobs, pods = feeds(cache)
        since, take = Listed(jobs, None, 10), changed.put_nowait
        catch_up = {"catch_up": partial(relist, cluster, pods, None, take)}
        watched = watch_forever(
            cluster, since, take, beat, sleep=at_once, **(catch_up if pods_first else {})
        )
        task = asyncio.create_task(watched)
        yield cache, changed, asked
        task.cancel()
        await asyncio.wait([task])
    await runner.cleanup()


async def told(changed: asyncio.Queue[Key]) -> Key:
    return await asyncio.wait_for(changed.get(), 10)


async def asked_for(asked: asyncio.Queue[str], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [await asked.get() for _ in range(count)]


async def test_only_a_change_that_matters_is_told() -> None:
    events = (
        {"type": "ADDED", "object": job(11)},
        {"type": "MODIFIED", "object": job(12, active=1)},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "13"}}},
        {"type": "MODIFIED", "object": started(14)},
        {"type": "DELETED", "object": started(15)},
    )
    async with watching(stream(*events)) as (cache, changed, asked):
        assert [await told(changed) for _ in range(3)] == [CHAT] * 3
        await asked_for(asked, 2)
        assert changed.empty()
        assert list(cache.jobs.of(CHAT)) == []


@pytest.mark.parametrize("break_", [stream(), refusal(429), refusal(500), refusal(401)])
async def test_a_watch_that_breaks_goes_on_where_it_was(break_: Answer) -> None:
    first = stream({"type": "ADDED", "object": job(11)})
    async with watching(first, break_, stream()) as (_, changed, asked):
        assert await told(changed) == CHAT
        assert await asked_for(asked, 3) == ["10", "11", "11"]


@pytest.mark.parametrize("expired", [stream(EXPIRED), refusal(410)])
async def test_a_watch_that_is_too_far_behind_begins_with_a_list(expired: Answer) -> None:
    added = stream({"type": "ADDED", "object": job(11)})
    listed = page(99)
    async with watching(added, expired, refusal(500), listed) as (cache, changed, asked):
        assert [await told(changed), await told(changed)] == [CHAT, CHAT]
        assert list(cache.jobs.of(CHAT)) == [], "the list does not show it any more"
        assert await asked_for(asked, 5) == ["10", "11", "list", "list", "99"]


@pytest.mark.parametrize(
    "break_", [[refusal(500)], [stream(EXPIRED), page(11, job(11))]], ids=["failed", "expired"]
)
async def test_what_pods_told_meanwhile_is_known_before_what_jobs_did(
    break_: list[Answer],
) -> None:
    """Else a Job that ended long ago is concluded on without its pods' last words."""
    told_after = stream({"type": "ADDED", "object": job(12)})
    async with watching(*break_, told_after, pods_first=True) as (_, changed, asked):
        assert await told(changed) == CHAT
        assert "pods" in await asked_for(asked, 3)


async def test_an_object_that_cannot_be_read_does_not_hide_the_others() -> None:
    broken = job(11)
    del broken["metadata"]["creationTimestamp"]
    events = ({"type": "ADDED", "object": broken}, {"type": "ADDED", "object": job(12)})
    async with watching(stream(*events)) as (cache, changed, _):
        assert await told(changed) == CHAT
        assert [state.resource_version for state in cache.jobs.of(CHAT)] == [12]


async def test_a_watch_that_asks_in_vain_is_alive() -> None:
    beats: list[None] = []
    refused = [refusal(500), stream(EXPIRED), refusal(500), page(20)]
    async with watching(*refused, beat=lambda: beats.append(None)) as (_, _, asked):
        assert await asked_for(asked, 5) == ["10", "10", "list", "list", "20"]
        assert len(beats) >= 5


async def test_a_watch_is_alive_for_what_it_is_told_and_not_while_nothing_comes() -> None:
    beats: list[None] = []
    told_first = stream({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "13"}}})
    async with watching(told_first, beat=lambda: beats.append(None)) as (_, _, asked):
        assert await asked_for(asked, 2) == ["10", "13"]
        assert len(beats) == 3, "two requests and a bookmark"


async def test_an_api_server_that_fails_is_told_of_once_for_each_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = [refusal(503), refusal(500)]
    cut = {"type": "ERROR", "object": {"code": 502, "message": "cut"}}
    heard_and_cut = stream({"type": "ADDED", "object": job(11)}, cut)
    async with watching(*outage, stream(), *outage, heard_and_cut) as (_, _, asked):
        assert await asked_for(asked, 7) == [*["10"] * 6, "11"]
    assert [record.getMessage() for record in caplog.records] == [
        "the watch of jobs broke (503: no): asking on",
        "the watch of jobs broke (503: no): asking on",
        "the watch of jobs broke (502: cut): asking on",
    ]


async def test_a_namespace_that_comes_to_be_refused_shows_nothing_until_it_is_listed_anew() -> None:
    """No watch tells of what is deleted meanwhile."""
    cache, beaten, asked, refuses = Cache(), set[str](), asyncio.Queue[str](), True

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        asked.put_nowait(f"{request.path.rpartition('/')[2]} {'watch' in request.query}")
        if refuses:
            return web.json_response({"message": "no"}, status=403)
        if "watch" in request.query:
            await asyncio.Event().wait()
        return web.json_response({"metadata": {"resourceVersion": "99"}, "items": []})

    def shown() -> list[Key]:
        return [state.key for state in cache.align_tune_jobs()]

    align_tune_job = job(5)
    align_tune_job["metadata"] |= {"name": "chat", "generation": 1}
    cache.take_object(align_tune_job | {"spec": {}})
    runner = web.ServerRunner(web.Server(serve, handler_cancellation=True), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ClientSession() as session:
        cluster = Cluster(session, site.name, lambda *_: None, may_write=lambda: False)
        listed = [Listed(feed, "research", 10) for feed in feeds(cache)]
        changed = asyncio.Queue[Key]()
        watched = watch_namespace(
            cluster,
            cache,
            "research",
            listed,
            changed=changed.put_nowait,
            beat=beaten.add,
            sleep=at_once,
        )
        task = asyncio.create_task(watched)
        async with asyncio.timeout(10):
            while await asked.get() != "aligntunejobs False":
                pass
            assert shown() == []
            beaten.clear()
            await asked_for(asked, 2)
            assert len(beaten) == 2, "asking in vain is a sign of life of both watches"
            refuses = False
            assert await changed.get() == CHAT
            while await asked.get() != "pods True":
                pass
        assert list(cache.objects.of(CHAT)) == []
        task.cancel()
        await asyncio.wait([task])
    await runner.cleanup()


@pytest.mark.parametrize("status", [403, 404])
async def test_a_watch_that_is_refused_is_told_of_once_each_time_it_begins_to_be(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [refusal(status), refusal(status)]
    async with watching(*refused, stream(), *refused) as (_, _, asked):
        assert await asked_for(asked, 6) == ["10"] * 6
    assert [record.getMessage() for record in caplog.records] == [
        f"the watch of jobs is refused ({status}: no): asking on"
    ] * 2
