"""The operator's own HTTP endpoints: /metrics, /healthz and /readyz."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from aligntune.core.errors import ConfigError


@asynccontextmanager
async def serving(
    port: int,
    registry: CollectorRegistry,
    *,
    ready: Callable[[], bool],
    alive: Callable[[], bool],
) -> AsyncIterator[None]:
    """Serves in its `with` block, unless the port is 0.

    Args:
        port: Where.
        registry: What /metrics shows.
        ready: Whether /readyz answers 200.
        alive: Whether /healthz does; that it answers at all shows that the event loop turns.

    Raises:
        ConfigError: Another process has the port.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    def probe(holds: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text="ok") if holds() else web.Response(status=503, text="not ok")

        return answer

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", probe(alive)),
            web.get("/readyz", probe(ready)),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if port:
            await web.TCPSite(runner, port=port).start()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"--http-port {port}: {reason}; choose another, or 0 for none") from error
    else:
        yield
    finally:
        await runner.cleanup()
