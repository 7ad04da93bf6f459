"""What clients do: how objects are created, and what a bare client would write for each."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from aligntune_operator.observe import Object, align_tune_job_state, job_state, observe
from aligntune_operator.render.job import job as render_job
from aligntune_operator.session import Connection
from aligntune_operator.settings import Settings
from aligntune_operator.status.reduce import reduce_status
from bench.scale.sides import JOBS, OURS, Side

CONNECTIONS = 32


class Client:
    """Creates objects, and notes when each was there.

    Args:
        connection: To the API server.
    """

    def __init__(self, connection: Connection) -> None:
        self._session, self._server = connection.session, connection.server
        self.created: dict[str, float] = {}

    async def create(self, side: Side, name: str) -> dict[str, Any]:
        """Creates an object; the time is that of the answer."""
        answer = await self._write("POST", side.path, side.make(name))
        self.created[name] = time.monotonic()
        return answer

    async def at_once(self, side: Side, names: Iterable[str]) -> list[dict[str, Any]]:
        """Creates objects as fast as a few connections do."""
        slots = asyncio.Semaphore(CONNECTIONS)

        async def one(name: str) -> dict[str, Any]:
            async with slots:
                return await self.create(side, name)

        return await asyncio.gather(*map(one, names))

    async def steadily(self, side: Side, names: Iterable[str], per_second: float) -> None:
        """Creates objects at a rate, however long each takes."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                await asyncio.sleep(began + number / per_second - time.monotonic())
                group.create_task(self.create(side, name))

    async def write_as_we_would(self, pairs: Iterable[tuple[Object, Object]]) -> None:
        """The same two writes for each object that the operator makes to start it."""
        slots = asyncio.Semaphore(CONNECTIONS)

        async def one(job: Object, status: Object) -> None:
            async with slots:
                await self._start(job, status)

        await asyncio.gather(*(one(job, status) for job, status in pairs))

    async def create_and_start(
        self, names: Iterable[str], first_writes: Callable[[Object], tuple[Object, Object]]
    ) -> None:
        """The object itself, too, before its two writes."""
        slots = asyncio.Semaphore(CONNECTIONS)

        async def one(name: str) -> None:
            async with slots:
                await self._start(*first_writes(await self.create(OURS, name)))

        await asyncio.gather(*map(one, names))

    async def _start(self, job: Object, status: Object) -> None:
        await self._write("POST", JOBS, job)
        path = f"{OURS.path}/{status['metadata']['name']}/status"
        await self._write("PUT", path, status)

    async def _write(self, verb: str, path: str, body: Object, **more: Any) -> dict[str, Any]:
        url = f"{self._server}/{path}"
        async with self._session.request(verb, url, json=body, **more) as answer:
            text = await answer.text() if not answer.ok else ""
            assert answer.ok, text
            found: dict[str, Any] = await answer.json()
            return found


def first_writes(body: Object, settings: Settings, now: datetime) -> tuple[Object, Object]:
    """The Job and the first status of an AlignTuneJob, made by the operator's own functions."""
    state = align_tune_job_state(body)
    observed = observe(state)
    assert observed.spec is not None
    job = render_job(state.key, state.uid, observed.spec, 1, settings, generation=state.generation)
    seen = job_state(_as_created(job, now))
    status = reduce_status(observe(state, (seen,)), now)
    written = {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {
            "name": state.key.name,
            "namespace": state.key.namespace,
            "resourceVersion": str(state.resource_version),
        },
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return job, written


def _as_created(job: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    given = {"uid": "-", "resourceVersion": "1", "creationTimestamp": now.isoformat()}
    return {**job, "metadata": job["metadata"] | given}
