"""Between the operator and a real API server: what networks and overloaded servers do."""

import asyncio
import itertools
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp import web

from aligntune.api.env import PROGRESS_PORT
from tests.chaos.endpoints import Network, unreachable

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
EXPIRED = {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "old"}
ENDPOINT = re.compile(rf"(/api/v1/namespaces/[^/]+/pods/[^:/]+):{PROGRESS_PORT}/proxy/progress")

Asked = Callable[[web.BaseRequest], bool]


def a_watch(request: web.BaseRequest) -> bool:
    return "watch" in request.query


def a_write(request: web.BaseRequest) -> bool:
    return request.method != "GET"


def anything(_: web.BaseRequest) -> bool:
    return True


@dataclass
class Answer:
    """What the proxy says in the API server's place, to so many requests."""

    status: int
    asked: Asked
    left: int


class Proxy:
    """Plain HTTP in, the API server's TLS out; it runs in a thread of its own.

    What the API server would pass on to a pod goes to a stand-in for it, at the address that the
    pod's status tells: there is no kubelet, and no pod.

    Args:
        server: URL of the API server.
        credentials: The administrator's; without a certificate, who asks says who it is.
        pods: Who answers at the addresses of pods.
    """

    def __init__(self, server: str, credentials: ssl.SSLContext, pods: Network) -> None:
        self._server = server
        self._pods = pods
        self._credentials = credentials
        self._flows = asyncio.Event()
        self._delay_seconds = 0.0
        self._answers: list[Answer] = []
        self._failures: Iterator[int] = itertools.repeat(0)
        self._clients: set[asyncio.Transport] = set()
        self.url = ""
        self.done = 0
        """Requests that were refused, and connections that were broken."""
        self.answered = Counter[int]()
        """What the API server itself has answered, by status."""

    def __enter__(self) -> Self:
        ready = threading.Event()
        serving = self._serve(ready)
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def cut(self) -> None:
        """Breaks every connection there is; new ones are fine."""
        self._loop.call_soon_threadsafe(self._abort)

    @contextmanager
    def blackhole(self) -> Iterator[None]:
        """Swallows everything, in both directions, without closing anything."""
        self._loop.call_soon_threadsafe(self._flows.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._flows.set)

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Keeps every request waiting."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    def answer(self, status: int, asked: Asked, times: int) -> None:
        """Answers the next requests of a kind with an error."""
        self._answers.append(Answer(status, asked, times))

    @contextmanager
    def failing(self, statuses: Iterable[int]) -> Iterator[None]:
        """Answers every request with the next of these errors."""
        self._failures = iter(statuses)
        try:
            yield
        finally:
            self._failures = itertools.repeat(0)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._flows.set()
        connector = aiohttp.TCPConnector(limit=0, ssl=self._credentials)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = "http://{}:{}".format(*runner.addresses[0][:2])
            ready.set()
            await self._stop.wait()
            self._abort()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport: Any = request.transport
        self._clients.add(transport)
        try:
            body = await request.read()
            await self._flows.wait()
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            if status := self._instead(request):
                return refusal(request, status)
            if pod := ENDPOINT.fullmatch(request.path):
                return await self._ask_pod(request, pod[1])
            return await self._forward(request, body)
        finally:
            self._clients.discard(transport)

    def _instead(self, request: web.BaseRequest) -> int | None:
        for answer in self._answers:
            if answer.left and answer.asked(request):
                answer.left -= 1
                self.done += 1
                return answer.status
        if status := next(self._failures):
            self.done += 1
            return status
        return None

    async def _ask_pod(self, request: web.BaseRequest, pod: str) -> web.StreamResponse:
        try:
            who = {k: v for k, v in request.headers.items() if k == "Authorization"}
            async with self._session.get(f"{self._server}{pod}", headers=who) as answer:
                found = await answer.json()
        except aiohttp.ClientError:
            return await unreachable(request, {})
        return await self._pods.ask(request, found.get("status", {}).get("podIP", ""))

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method,
                f"{self._server}{request.path_qs}",
                data=body or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
                allow_redirects=False,
            ) as answer:
                self.answered[answer.status] += 1
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await self._flows.wait()
                    await response.write(part)
                await response.write_eof()
                return response
        except aiohttp.ClientError:
            # The API server is away, or either side broke off: so does the other.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)  # nobody reads it

    def _abort(self) -> None:
        self.done += len(self._clients)
        for transport in list(self._clients):
            transport.abort()


def refusal(request: web.BaseRequest, status: int) -> web.Response:
    """An error in the API server's form; a watch that is too old says so inside of its stream."""
    if status == EXPIRED["code"] and a_watch(request):
        line = json.dumps({"type": "ERROR", "object": EXPIRED}) + "\n"
        return web.Response(text=line, content_type="application/json")
    message = {"kind": "Status", "code": status, "message": "the chaos proxy says no"}
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.json_response(message, status=status, headers=headers)
