"""What the kubelet is told of the operator: alive as long as it works, ready once it knows all."""

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import unused_port
from prometheus_client import CollectorRegistry

from aligntune_operator.handlers import WATCH_SECONDS, kopf_settings
from aligntune_operator.heartbeats import STILL_SECONDS, Heartbeats
from aligntune_operator.server import serving


@pytest.mark.parametrize(
    ("ready", "alive", "told"),
    [(True, True, (200, 200)), (False, True, (503, 200)), (True, False, (200, 503))],
)
async def test_each_probe_answers_for_itself(
    ready: bool, alive: bool, told: tuple[int, int]
) -> None:
    port = unused_port()
    async with (
        serving(port, CollectorRegistry(), ready=lambda: ready, alive=lambda: alive),
        ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get("/readyz") as readyz,
        session.get("/healthz") as healthz,
    ):
        assert (readyz.status, healthz.status) == told


class Clock:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_one_watch_that_is_still_for_long_is_the_end_however_the_others_turn() -> None:
    clock = Clock()
    heartbeats = Heartbeats(clock)
    assert heartbeats.alive(), "none has begun yet"
    heartbeats.beat("jobs")
    heartbeats.beat("pods")
    clock.seconds = STILL_SECONDS - 1
    heartbeats.beat("pods")
    assert heartbeats.alive()
    clock.seconds = STILL_SECONDS
    assert not heartbeats.alive()
    heartbeats.beat("jobs")
    assert heartbeats.alive()


def test_a_watch_of_kopf_that_is_told_nothing_asks_anew_before_it_counts_as_dead() -> None:
    watching = kopf_settings().watching
    assert watching.server_timeout == WATCH_SECONDS
    assert WATCH_SECONDS + watching.inactivity_timeout < STILL_SECONDS
