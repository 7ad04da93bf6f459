"""The operator's own HTTP endpoints: /metrics, /healthz and /readyz."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


async def serve(
    port: int,
    registry: CollectorRegistry,
    *,
    ready: Callable[[], bool],
    alive: Callable[[], bool],
) -> web.AppRunner:
    """Starts serving, unless the port is 0; the caller cleans the runner up.

    Args:
        port: Where.
        registry: What /metrics shows.
        ready: Whether /readyz answers 200.
        alive: Whether /healthz does; that it answers at all shows that the event loop turns.
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
    if port:
        await web.TCPSite(runner, port=port).start()
    return runner
