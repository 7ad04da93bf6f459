"""The operator's process ends where its watch does; an HTTP server plays the API server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aligntune.api import labels

RESOURCES = {
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {
                "name": labels.GROUP,
                "versions": [{"groupVersion": labels.API_VERSION, "version": labels.VERSION}],
                "preferredVersion": {
                    "groupVersion": labels.API_VERSION,
                    "version": labels.VERSION,
                },
            }
        ]
    },
    "/api/v1": {
        "resources": [
            {
                "name": "namespaces",
                "singularName": "namespace",
                "kind": "Namespace",
                "namespaced": False,
                "verbs": ["list", "watch"],
            }
        ]
    },
    f"/apis/{labels.API_VERSION}": {
        "resources": [
            {
                "name": labels.PLURAL,
                "singularName": "aligntunejob",
                "kind": labels.KIND,
                "namespaced": True,
                "verbs": ["list", "watch"],
            }
        ]
    },
}


class ApiServer:
    """Empty lists, silent watches, a Lease; `breaks` makes kopf's watch of namespace `a` fail."""

    def __init__(self) -> None:
        self.breaks = asyncio.Event()
        self.lease: dict[str, Any] = {}
        self.held = asyncio.Event()
        self.watched = asyncio.Queue[str]()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if "/namespaces/gone/" in path:
            return web.json_response({"message": "no"}, status=403)
        if "/leases" in path:
            return await self._answer_lease(request)
        if "watch" in request.query:
            self.watched.put_nowait(path)
            if path.endswith(labels.PLURAL) and "/namespaces/a/" in path:
                await self.breaks.wait()
                return web.json_response({"message": "broken"}, status=422)
            await asyncio.Event().wait()
        empty = {"metadata": {"resourceVersion": "5"}, "items": []}
        return web.json_response(RESOURCES.get(path, empty))

    async def _answer_lease(self, request: web.Request) -> web.Response:
        if request.method != "GET":
            self.lease = await request.json()
            self.lease["metadata"]["resourceVersion"] = "1"
            self.held.set()
        return web.json_response(self.lease, status=200 if self.lease else 404)


@asynccontextmanager
async def operator(folder: Path, server: ApiServer) -> AsyncIterator[asyncio.subprocess.Process]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": site.name}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    options = ("--namespaces", "a,gone,b", "--http-port", "0")
    lease = ("--lease-namespace", "operator")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aligntune_operator", *options, *lease),
        env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await runner.cleanup()


async def watches(server: ApiServer) -> None:
    """Waits until both namespaces that may be watched are."""
    seen = set[str]()
    while not seen >= {f"/apis/{labels.API_VERSION}/namespaces/{n}/{labels.PLURAL}" for n in "ab"}:
        seen.add(await server.watched.get())


@pytest.mark.timeout(120)
async def test_a_watch_that_fails_ends_the_process_with_a_sentence_and_gives_up_the_lease(
    tmp_path: Path,
) -> None:
    server = ApiServer()
    async with operator(tmp_path, server) as process, asyncio.timeout(40):
        await watches(server)
        await server.held.wait()
        server.breaks.set()
        _, told = await process.communicate()
    assert process.returncode == 1
    last = told.decode().splitlines()[-1]
    assert last == ("aligntune-operator: the watch of AlignTuneJobs failed: the log above says why")
    assert server.lease["spec"]["holderIdentity"] == ""


@pytest.mark.timeout(120)
async def test_a_namespace_that_refuses_hinders_neither_the_others_nor_the_end(
    tmp_path: Path,
) -> None:
    server = ApiServer()
    async with operator(tmp_path, server) as process, asyncio.timeout(40):
        await watches(server)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0
