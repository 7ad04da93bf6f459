"""Between the operator and the pods: who answers at which address, and what."""

import asyncio
import gzip
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from aiohttp import web

LIE = 999_999
"""A step that no trainer reaches: where it shows, the operator has believed a stranger."""
BOMB_BYTES = 256 * 2**20
"""What a quarter of a megabyte of gzip unpacks to."""

Object = dict[str, Any]
Dialect = Callable[[Object], Object]
"""How a version of the trainer words a snapshot or an outcome."""


class Trainer(NamedTuple):
    """A pod that trains, at its address."""

    pod: str
    uid: str
    attempt: int
    first_step: int
    """Thousands apart from every other trainer's, so that a step tells whose it is."""
    began: float

    def snapshot(self) -> Object:
        """What it would truly answer; every third loss is no number."""
        done = int(time.monotonic() - self.began)
        progress = {"step": self.first_step + done, "totalSteps": LIE, "activity": "training"}
        loss = float("nan") if done % 3 == 0 else 1.5
        return {
            "attempt": self.attempt,
            "podUid": self.uid,
            "progress": progress,
            "metrics": {"loss": loss, "gradNorm": 0.5},
        }


Answer = Callable[[web.BaseRequest, Object], Awaitable[web.StreamResponse]]
"""What is said in a trainer's place; told what it would say itself."""


async def truth(request: web.BaseRequest, told: Object) -> web.StreamResponse:
    """Also where a redirect of `redirected` leads."""
    step = {"progress": told["progress"] | {"step": LIE}} if "stolen" in request.query else {}
    return web.json_response(told | step)


async def another_pod(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.json_response(told | {"podUid": "another", "progress": {"step": LIE}})


async def no_pod(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    return web.json_response({"progress": {"step": LIE}})


async def not_a_number(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.json_response(told | {"progress": {"step": float("nan")}})


async def out_of_bounds(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.json_response(told | {"progress": {"step": 10**30}})


async def cut_short(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.Response(text=json.dumps(told)[:-9])


async def html(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    return web.Response(text="<html>Log in to go on</html>")


async def bytes_of_no_text(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    return web.Response(body=bytes(range(256)))


async def nested(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.Response(text=json.dumps(told)[:-1] + ', "deep": ' + "[" * 60_000)


async def oversized(_: web.BaseRequest, told: Object) -> web.StreamResponse:
    return web.json_response(told | {"padding": "x" * 10 * 2**20})


async def bomb(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    body = gzip.compress(b" " * BOMB_BYTES)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def redirected(request: web.BaseRequest, _: Object) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": f"{request.path}?stolen"})


async def failing(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    return web.Response(status=500, text="Traceback (most recent call last)")


async def dripping(request: web.BaseRequest, told: Object) -> web.StreamResponse:
    """A byte in a second, and so never the whole."""
    response = web.StreamResponse()
    await response.prepare(request)
    for byte in json.dumps(told).encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(1)
    return response


async def unreachable(_: web.BaseRequest, __: Object) -> web.StreamResponse:
    """What the API server's proxy says where a network keeps it from the pod."""
    message = "error trying to reach service: dial tcp 10.0.0.1:9400: i/o timeout"
    status = {"kind": "Status", "apiVersion": "v1", "code": 503, "message": message}
    return web.json_response(status, status=503)


GARBAGE: tuple[Answer, ...] = (
    *(another_pod, no_pod, not_a_number, out_of_bounds, cut_short, html, bytes_of_no_text, nested),
    *(oversized, bomb, redirected, failing, dripping),
)


def older(told: Object) -> Object:
    """As a first version would: without whatever came later."""
    first = ("attempt", "podUid", "progress", "result", "exitCode", "reason", "step", "modelPath")
    known = {name: value for name, value in told.items() if name in first}
    return known | ({"progress": {"step": told["progress"]["step"]}} if "progress" in told else {})


def newer(told: Object) -> Object:
    """As a version to come might: with more fields, other activities, other causes."""
    more: Object = {"schemaVersion": 7, "topology": {"pipeline": [0, 1], "expert": None}}
    if "progress" in told:
        more["progress"] = told["progress"] | {"activity": "defragmenting", "wallClock": "3h"}
    if told.get("reason") == "NcclError":
        more["reason"] = "CosmicRay"
    return told | more


def as_today(told: Object) -> Object:
    return told


class Network:
    """What the operator reaches at the addresses of pods."""

    def __init__(self) -> None:
        self.dialect: Dialect = as_today
        self._trainers: dict[str, Trainer] = {}
        self._instead: Iterator[Answer] = itertools.repeat(truth)
        self._numbers = itertools.count(1)

    def join(self, pod: str, uid: str, attempt: int) -> str:
        """Gives a pod that begins to train its address."""
        number = next(self._numbers)
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        self._trainers[address] = Trainer(pod, uid, attempt, 1000 * number, time.monotonic())
        return address

    async def ask(self, request: web.BaseRequest, address: str) -> web.StreamResponse:
        """What is answered at an address."""
        trainer = self._trainers.get(address)
        if trainer is None:
            return await unreachable(request, {})
        return await next(self._instead)(request, self.dialect(trainer.snapshot()))

    @contextmanager
    def answering(self, *answers: Answer) -> Iterator[None]:
        """Has these answers, in turns, stand in for every trainer's."""
        self._instead = itertools.cycle(answers)
        try:
            yield
        finally:
            self._instead = itertools.repeat(truth)

    @contextmanager
    def swapped(self, one: str, other: str) -> Iterator[None]:
        """Gives two pods each other's address, which nobody tells the operator."""
        self._swap(one, other)
        try:
            yield
        finally:
            self._swap(one, other)

    def _swap(self, one: str, other: str) -> None:
        addresses = {trainer.pod: address for address, trainer in self._trainers.items()}
        first, second = addresses[one], addresses[other]
        moved = {first: self._trainers[second], second: self._trainers[first]}
        self._trainers |= moved
