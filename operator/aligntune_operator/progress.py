"""Progress is pulled: each running pod is asked for its snapshot, at a bounded rate."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus

import aiohttp
from pydantic import ValidationError

from aligntune.api import env
from aligntune.api.progress import Snapshot
from aligntune_operator.cache import Cache
from aligntune_operator.observe import Key, PodState, Poll

LONGEST_ANSWER = 64 * 1024
ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=5)

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


async def ask(session: aiohttp.ClientSession, url: str, pod: PodState, now: datetime) -> Poll:
    """Asks one pod. The pod is a tenant's: its answer is bounded, parsed and checked, never obeyed.

    Returns:
        The snapshot, or a sentence that says why there is none.
    """
    try:
        async with session.get(url, timeout=ANSWER_TIMEOUT, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                return Poll(pod.uid, now, error=f"The pod answered with {response.status}.")
            body = await _read(response)
        if len(body) > LONGEST_ANSWER:
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


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LONGEST_ANSWER:
            break
    return bytes(body)


async def poll_forever(
    cache: Cache,
    changed: Callable[[Key], None],
    ask_pod: Callable[[Key, PodState], Awaitable[Poll]],
    *,
    interval_seconds: float,
    concurrency: int,
) -> None:
    """Asks every running job once per interval, spread over it, and queues each job asked."""
    slots = asyncio.Semaphore(concurrency)

    async def poll(key: Key, pod: PodState) -> None:
        async with slots:
            cache.polled(key, await ask_pod(key, pod))
        changed(key)

    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        async with asyncio.TaskGroup() as asking:
            for key, pod in cache.running_pods():
                asking.create_task(poll(key, pod))
        await asyncio.sleep(max(began + interval_seconds - loop.time(), 0))
