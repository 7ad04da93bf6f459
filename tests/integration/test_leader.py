"""Two replicas on a real API server: one acts, the other follows on, and nothing is done twice."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def replicas(
    control_plane: ControlPlane, api: Api, tmp_path: Path
) -> Iterator[tuple[Operator, Operator]]:
    """The first leads."""
    options = ("--lease-namespace", api.namespace, "--namespaces", api.namespace)
    first, second = (
        Operator(control_plane.kubeconfig, tmp_path / f"{name}.log", *options)
        for name in ("first", "second")
    )
    first.start()
    api.until("the first leads", lambda: first.leads)
    second.start()
    api.until("the second is ready", lambda: "aligntune_operator_leader" in second.metrics())
    yield first, second
    for replica in (first, second):
        if replica.running:
            replica.stop(signal.SIGKILL)
        assert "Traceback" not in replica.log, replica.log


def started(api: Api, name: str) -> None:
    api.until(f"{name} started", lambda: api.phase(name) == "Starting")
    assert len(api.jobs_of(name)) == 1
    assert api.status(name)["attempts"]["current"] == 1


def test_the_other_replica_follows_a_leader_that_is_stopped_or_killed(
    api: Api, replicas: tuple[Operator, Operator], manifest: Make
) -> None:
    first, second = replicas
    api.apply(manifest("one"))
    started(api, "one")
    assert not second.leads
    assert first.stop() == 0
    api.apply(manifest("two"))
    started(api, "two")
    assert second.leads

    first.start()
    api.until("the first is back", lambda: "aligntune_operator_leader" in first.metrics())
    second.stop(signal.SIGKILL)
    api.apply(manifest("three"))
    started(api, "three")
    assert first.leads
    started(api, "one")


def test_a_leader_that_was_stopped_past_its_lease_ends_without_a_write(
    api: Api, replicas: tuple[Operator, Operator], manifest: Make
) -> None:
    first, second = replicas
    first.send(signal.SIGSTOP)
    api.until("the second leads", lambda: second.leads)
    names = [f"job-{number}" for number in range(20)]
    api.apply(*map(manifest, names))
    first.send(signal.SIGCONT)
    assert first.wait() == 1
    assert "lost the leader Lease; exiting" in first.log
    for name in names:
        started(api, name)


def test_a_lease_that_somebody_takes_ends_the_leader(
    api: Api, replicas: tuple[Operator, Operator]
) -> None:
    first, second = replicas
    second.stop()
    api("patch", "lease", "aligntune-operator", "--type=merge", "-p",
        '{"spec": {"holderIdentity": "somebody else"}}')  # fmt: skip
    assert first.wait() == 1
