"""A pod's endpoint is a tenant's: whatever it answers, the operator takes no harm and no lie."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aligntune.api.env import PROGRESS_PORT
from aligntune.api.progress import Snapshot
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key, PodState, Poll
from aligntune_operator.progress import (
    LONGEST_ANSWER,
    LOOK_SECONDS,
    SLOW_SECONDS,
    AskPod,
    ask,
    asker,
    pod_address,
    poll_forever,
    proxy_address,
    wait_seconds,
)
from aligntune_operator.session import Connection, rotating_token

NOW = datetime(2026, 11, 1, tzinfo=UTC)
POD = PodState("pod", "pod-uid", 1, "job-uid", 0, ip="10.0.0.1")

AskFor = Callable[[web.StreamResponse], Awaitable[Poll]]


@pytest.fixture
async def ask_for() -> AsyncIterator[AskFor]:
    """Serves one answer on loopback and asks for it."""
    answer: list[web.StreamResponse] = []

    async def handle(_request: web.Request) -> web.StreamResponse:
        return answer[0]

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handle)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def asked(response: web.StreamResponse) -> Poll:
        answer[:] = [response]
        async with aiohttp.ClientSession() as session:
            return await ask(session, f"http://127.0.0.1:{port}/progress", POD, NOW)

    yield asked
    await runner.cleanup()


async def test_a_snapshot_of_this_pod_is_taken(ask_for: AskFor) -> None:
    answer = {"podUid": "pod-uid", "progress": {"step": 3}, "metrics": {"loss": 1.5}}
    poll = await ask_for(web.json_response(answer))
    assert poll.error == ""
    assert poll.snapshot is not None
    assert (poll.snapshot.progress.step, poll.snapshot.metrics) == (3, {"loss": 1.5})


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (web.json_response({"podUid": "other", "progress": {"step": 3}}), "Another pod answered"),
        (web.json_response({"podUid": "pod-uid", "progress": {"step": -1}}), "no progress report"),
        (web.Response(text="<html>"), "no progress report"),
        (web.Response(body=b"\xff\xfe"), "no progress report"),
        (web.Response(text='{"podUid": "' + "x" * LONGEST_ANSWER + '"}'), "larger than"),
        (web.Response(status=500), "answered with 500"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "with 302"),
    ],
    ids=["other-pod", "negative-step", "html", "bytes", "huge", "500", "redirect"],
)
async def test_anything_else_is_an_error_in_a_sentence(
    ask_for: AskFor, response: web.Response, sentence: str
) -> None:
    poll = await ask_for(response)
    assert poll.snapshot is None
    assert sentence in poll.error


async def test_a_report_of_a_newer_trainer_is_read_as_far_as_it_is_known(ask_for: AskFor) -> None:
    progress = {"step": 3, "activity": "defragmenting", "wallClock": "3h"}
    answer = {"podUid": "pod-uid", "schemaVersion": 7, "progress": progress}
    poll = await ask_for(web.json_response(answer))
    assert poll.snapshot is not None
    assert (poll.snapshot.progress.step, poll.snapshot.progress.activity) == (3, "training")


async def test_metrics_that_no_json_can_hold_are_dropped(ask_for: AskFor) -> None:
    answer = '{"podUid": "pod-uid", "metrics": {"loss": NaN, "gradNorm": 1e999, "rate": 0.1}}'
    poll = await ask_for(web.Response(text=answer))
    assert poll.snapshot is not None
    assert poll.snapshot.metrics == {"rate": 0.1}


async def test_nobody_at_the_address_is_an_error_in_a_sentence() -> None:
    async with aiohttp.ClientSession() as session:
        poll = await ask(session, "http://127.0.0.1:1/progress", POD, NOW)
    assert "does not answer" in poll.error


async def test_a_pod_never_sees_the_operators_credentials(tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"podUid": "pod-uid"})

    token = tmp_path / "token"
    token.write_text("secret")
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handle)])
    async with (
        TestServer(app, port=PROGRESS_PORT) as server,
        aiohttp.ClientSession(middlewares=(rotating_token(token, time.monotonic),)) as session,
        aiohttp.ClientSession() as pods,
    ):
        url = f"http://{server.host}:{server.port}"
        pod = replace(POD, ip=server.host)
        for in_cluster in (True, False):
            connection = Connection(session, session, pods, url, in_cluster=in_cluster)
            poll = await asker(connection, lambda: NOW, seen.append)(Key("ns", "chat"), pod)
            assert poll.error == ""
    assert seen == [None, "ok", "Bearer secret", "ok"]


def test_the_address_is_the_pods_own_or_the_api_servers_proxy() -> None:
    key = Key("research", "chat")
    assert pod_address(key, POD) == "http://10.0.0.1:9400/progress"
    proxy = proxy_address("https://api:6443")
    assert proxy(key, POD) == (
        "https://api:6443/api/v1/namespaces/research/pods/pod:9400/proxy/progress"
    )


class Time:
    """Stand-in for the clock: it moves where someone sleeps, and only then."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


async def polled_until(
    done: asyncio.Event, cache: Cache, ask_pod: AskPod, passing: Time, *, concurrency: int
) -> None:
    polling = asyncio.create_task(
        poll_forever(
            cache,
            lambda _: None,
            ask_pod,
            interval_seconds=LOOK_SECONDS,
            concurrency=concurrency,
            clock=passing.clock,
            sleep=passing.sleep,
        )
    )
    try:
        await asyncio.wait_for(done.wait(), 30)
    finally:
        polling.cancel()


async def test_one_tenants_silent_pod_does_not_slow_the_others() -> None:
    """Stand-in: a cache of two running pods, one of which never answers."""

    class TwoPods(Cache):
        def running_pods(self) -> Iterator[tuple[Key, PodState]]:
            yield Key("silent", "job"), replace(POD, uid="silent")
            yield Key("fine", "job"), replace(POD, uid="fine")

    asked: list[str] = []
    done = asyncio.Event()

    async def ask_pod(key: Key, pod: PodState) -> Poll:
        asked.append(key.namespace)
        if key.namespace == "silent":
            await asyncio.Event().wait()
        if asked.count("fine") >= 3:
            done.set()
        return Poll(pod.uid, NOW, Snapshot())

    await polled_until(done, TwoPods(), ask_pod, Time(), concurrency=8)
    assert asked.count("silent") == 1


def test_a_pod_that_does_not_answer_is_asked_ever_less_up_to_a_bound() -> None:
    waits = [wait_seconds(failures, 10) for failures in range(7)]
    assert waits == [10, 20, 40, 80, 160, 160, 160]


class Seven(Cache):
    """Stand-in: a cache of six pods that are about to be held, more than there are slots, and one
    that answers at once.
    """

    def running_pods(self) -> Iterator[tuple[Key, PodState]]:
        for number in range(6):
            yield Key("slow", f"{number}"), replace(POD, uid=f"slow-{number}")
        yield Key("fine", "job"), replace(POD, uid="fine")


async def held_while_one_is_asked_five_times(
    first_answer: Callable[[str], Awaitable[Poll]], passing: Time
) -> int:
    """How many of them hold a slot without end, once they are known by their first answers."""
    asked: list[str] = []
    held: set[str] = set()
    fine_after_all = asyncio.Event()

    async def ask_pod(_: Key, pod: PodState) -> Poll:
        asked.append(pod.uid)
        if pod.uid == "fine":
            if held and asked.count("fine") >= 5:
                fine_after_all.set()
            return Poll(pod.uid, NOW, Snapshot())
        if asked.count(pod.uid) > 1:
            held.add(pod.uid)
            await asyncio.Event().wait()
        return await first_answer(pod.uid)

    await polled_until(fine_after_all, Seven(), ask_pod, passing, concurrency=4)
    return len(held)


async def test_pods_known_to_be_silent_leave_slots_to_the_others() -> None:
    async def silent(uid: str) -> Poll:
        return Poll(uid, NOW, error="silent")

    assert await held_while_one_is_asked_five_times(silent, Time()) == 1


async def test_pods_known_to_answer_slowly_leave_slots_to_the_others() -> None:
    passing = Time()

    async def slow(uid: str) -> Poll:
        await passing.sleep(2 * SLOW_SECONDS)
        return Poll(uid, NOW, Snapshot())

    assert await held_while_one_is_asked_five_times(slow, passing) == 1
