"""Progress is pulled: each running pod is asked for its snapshot, at a bounded rate."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

import aiohttp
from pydantic import ValidationError

from aligntune.api import env
from aligntune.api.progress import Snapshot
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key, PodState, Poll
from aligntune_operator.session import Connection, read_at_most

LONGEST_ANSWER = 64 * 1024
ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=5)

LOOK_SECONDS = 0.5
"""How often it is looked which pods are due."""
MOST_DOUBLINGS = 4
"""A silent pod is asked at least every sixteenth interval."""
SLOW_SECONDS = 1.0
"""From when on a pod that answers holds its slot for long."""
SLOW_SHARE = 4
"""One of so many slots is for slow and silent pods: each of those holds one for seconds."""

AskPod = Callable[[Key, PodState], Awaitable[Poll]]
Address = Callable[[Key, PodState], str]
"""URL of a pod's progress endpoint."""


def pod_address(_key: Key, pod: PodState) -> str:
    """Straight to the pod, from inside the cluster."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"http://{host}:{env.PROGRESS_PORT}/progress"


def proxy_address(server: str) -> Address:
    """Through the API server's pod proxy, from outside the cluster."""

    def address(key: Key, pod: PodState) -> str:
        pod_port = f"{pod.name}:{env.PROGRESS_PORT}"
        return f"{server}/api/v1/namespaces/{key.namespace}/pods/{pod_port}/proxy/progress"

    return address


def asker(
    connection: Connection, clock: Callable[[], datetime], asked: Callable[[str], None]
) -> AskPod:
    """How pods are asked: in the cluster with a session that holds no credential.

    Args:
        connection: How the API server, and from inside the pods, are reached.
        clock: Tells the time.
        asked: Told `ok` or `error` of each question.
    """
    inside = connection.in_cluster
    session = connection.pods if inside else connection.session
    address = pod_address if inside else proxy_address(connection.server)

    async def ask_pod(key: Key, pod: PodState) -> Poll:
        poll = await ask(session, address(key, pod), pod, clock())
        asked("error" if poll.error else "ok")
        return poll

    return ask_pod


async def ask(session: aiohttp.ClientSession, url: str, pod: PodState, now: datetime) -> Poll:
    """Asks one pod. The pod is a tenant's: its answer is bounded, parsed and checked, never obeyed.

    Returns:
        The snapshot, or a sentence that says why there is none.
    """
    try:
        async with session.get(url, timeout=ANSWER_TIMEOUT, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                return Poll(pod.uid, now, error=f"The pod answered with {response.status}.")
            body = await read_at_most(response, LONGEST_ANSWER)
        if body is None:
            return Poll(
                pod.uid, now, error=f"The pod's answer is larger than {LONGEST_ANSWER} bytes."
            )
        snapshot = Snapshot.model_validate_json(body)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Poll(pod.uid, now, error=f"The pod does not answer ({type(error).__name__}).")
    except ValidationError:
        return Poll(pod.uid, now, error="The pod's answer is no progress report.")
    if snapshot.pod_uid != pod.uid:
        return Poll(pod.uid, now, error="Another pod answered at this pod's address.")
    return Poll(pod.uid, now, snapshot)


async def poll_forever(
    cache: Cache,
    changed: Callable[[Key], None],
    ask_pod: AskPod,
    *,
    interval_seconds: float,
    concurrency: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Asks every running job once per interval, and queues each job asked.

    A pod that did not answer, or slowly, waits for a few slots together with the others that did
    not: however many one tenant has, they do not slow the others' progress. Without an answer it is
    also asked less and less often.
    """
    slots = asyncio.Semaphore(concurrency)
    slots_of_slow = asyncio.Semaphore(max(concurrency // SLOW_SHARE, 1))
    schedule: dict[str, Schedule] = {}

    async def poll(key: Key, pod: PodState, turn: Schedule) -> None:
        async with slots_of_slow if turn.slow or turn.failures else nullcontext(), slots:
            asked = clock()
            answer = await ask_pod(key, pod)
            turn.slow = clock() - asked > SLOW_SECONDS
        cache.take_poll(key, answer)
        changed(key)
        turn.failures = turn.failures + 1 if answer.error else 0
        turn.due = clock() + wait_seconds(turn.failures, interval_seconds)

    async with asyncio.TaskGroup() as polls:
        while True:
            running = list(cache.running_pods())
            schedule = {pod.uid: schedule.get(pod.uid, Schedule()) for _, pod in running}
            for key, pod in running:
                turn = schedule[pod.uid]
                if turn.due <= clock():
                    turn.due = math.inf  # until it has answered
                    polls.create_task(poll(key, pod, turn))
            await sleep(LOOK_SECONDS)


def wait_seconds(failures: int, interval_seconds: float) -> float:
    """How long until a pod is asked again that has not answered so many times in a row."""
    return interval_seconds * 2.0 ** min(failures, MOST_DOUBLINGS)


@dataclass
class Schedule:
    """When a pod is asked next."""

    due: float = 0.0
    failures: int = 0
    slow: bool = False
    """Whether its last answer took long."""
