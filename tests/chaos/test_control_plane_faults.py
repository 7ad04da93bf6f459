"""The fault table on a real API server, etcd, Job controller and garbage collector.

`make test` goes through the short rows, `RUNS=20 make chaos` twenty times through all. Times are
random; CHAOS_SEED=N repeats a run, as far as the machine does, and ROWS=NAME,NAME takes some rows
alone.
"""

import json
import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos import pod_rows
from tests.chaos.invariants import (
    attempts_of,
    check,
    doubled,
    events_of,
    mistold,
    overlapping,
    pods_that_ran,
)
from tests.chaos.rows import ROWS, Row
from tests.chaos.together import Trial, go_through, trials
from tests.chaos.world import ApiServer, world
from tests.cluster import fake_nodes
from tests.cluster.control_plane import ControlPlane, audit_log
from tests.cluster.processes import REPOSITORY

RUNS = int(os.environ.get("RUNS", "0"))
"""0: the short round."""
SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10_000)))
SIDE_BY_SIDE = 8
"""Rows at the same time, each with a namespace, a proxy and an operator of its own."""
ROW_SECONDS = 900
"""How long one may take; nothing here measures time."""
KINDS = ("done", "retried", "wrong")
AUDITED = {"batch": ("jobs", "jobs/status"), "": ("pods", "pods/status")}
CRD = REPOSITORY / "crds" / "aligntune.io_aligntunejobs.yaml"
TRAINERS = (*fake_nodes.RUNS, Path(__file__).parent / "stages" / "trainer-ends.yaml")


def chosen() -> list[Row]:
    if names := os.environ.get("ROWS"):
        return [row for row in ROWS if row.name in names.split(",")]
    return [row for row in ROWS if row.short or RUNS]


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    state = tmp_path_factory.mktemp("chaos") / "state"
    with ControlPlane(state, audited=AUDITED) as running:
        running.install(CRD)
        node = '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "chaos"}}'
        running.kubectl("create", "-f", "-", stdin=node)
        yield running


@pytest.fixture
def control_plane_of(
    tried: tuple[Trial[Row], ...], control_plane: ControlPlane, tmp_path: Path
) -> Iterator[ControlPlane]:
    """That of all rows; one with fake nodes for the row that asks for them."""
    nodes, state = tried[0].row.fake_nodes, tmp_path / "state"
    if not nodes:
        yield control_plane
        return
    with ControlPlane(state, audited=AUDITED, fake_nodes=nodes, pods=TRAINERS) as running:
        running.install(CRD)
        yield running


@pytest.mark.parametrize("tried", trials(chosen(), max(RUNS, 1), SIDE_BY_SIDE, ROW_SECONDS))
def test_a_fault_doubles_nothing_and_loses_nothing(
    tried: tuple[Trial[Row], ...], control_plane_of: ControlPlane, tmp_path: Path
) -> None:
    server = ApiServer(control_plane_of)

    def one(trial: Trial[Row]) -> None:
        row, seed, folder = trial.row, SEED + trial.number, tmp_path / str(trial)
        try:
            with world(
                control_plane_of,
                server,
                folder,
                name=row.name,
                seed=seed,
                replicas=row.replicas,
                clock_hours=row.clock_hours,
                fake_nodes=row.fake_nodes > 0,
                account=row.account,
                beside=row.beside,
            ) as around:
                around.apply(*(f"{kind}-{n}" for kind in KINDS for n in range(row.jobs)))
                row.fault(around)
                told = (
                    f"{around.proxy.done} broken or refused, {around.exits} exits,"
                    f" answered with {dict(around.proxy.answered)}"
                )
                for each in filter(None, (around, around.beside)):
                    check(each)
                print(f"{row.name}, CHAOS_SEED={seed}: {told}")  # noqa: T201 - pytest -s
        except Exception as error:
            logs = [log.read_text()[-2000:] for log in folder.glob("operator-*.log")]
            error.add_note(f"in row {row.name}, CHAOS_SEED={seed}\n" + "\n".join(logs))
            raise

    with closing(server):
        go_through(tried, one, SIDE_BY_SIDE)


def test_the_page_of_faults_has_every_row() -> None:
    page = (REPOSITORY / "docs" / "chaos.md").read_text()
    rows = [(row.name, row.what) for row in (*ROWS, *pod_rows.ROWS)]
    assert [name for name, what in rows if f"`{name}`" not in page or what not in page] == []


def test_a_line_that_a_killed_api_server_left_costs_the_audit_log_no_other(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    event = '{"kind":"Event","verb":"%s","objectRef":{"namespace":"ns"}}'
    log.write_text(
        f'{{"kind":"Event","v{event % "a"}\n{event % "b"}\n'
        + event.replace('"ns"', '"other"') % "c"
        + f"\n{event % 'd'}"
    )
    assert [event["verb"] for event in events_of(log, "ns")] == ["a", "b"]


@pytest.mark.parametrize(
    "verbs", [("update", "update"), ("update", "create"), ("create", "update")]
)
def test_a_job_counts_once_whenever_its_creation_is_written_down_if_at_all(
    verbs: tuple[str, str], tmp_path: Path
) -> None:
    """A killed API server does not; one that runs may tell of its controller's update first."""
    job = {
        "kind": "Job",
        "metadata": {
            "name": "chat-1",
            "uid": "1",
            "labels": {"aligntune.io/job-name": "chat", "aligntune.io/attempt": "1"},
            "ownerReferences": [{"uid": "uid"}],
        },
    }
    where = {"resource": "jobs", "namespace": "ns", "name": "chat-1"}
    told = {"objectRef": where, "responseStatus": {"code": 200}, "responseObject": job}
    events = ({"kind": "Event", "verb": verb} | told for verb in verbs)
    log = tmp_path / "audit.log"
    log.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events))
    [attempt] = attempts_of(log, "ns")["uid"]
    assert (attempt.name, attempt.number, attempt.let_go) == ("chat-1", 1, None)


def test_pods_of_two_attempts_that_run_at_once_are_found_in_the_audit_log(tmp_path: Path) -> None:
    """The check itself: a pod begins before that of the attempt before has ended."""

    def event(verb: str, uid: str, job: str, phase: str, **metadata: str) -> str:
        pod = {
            "kind": "Pod",
            "metadata": {
                "name": uid,
                "uid": uid,
                "labels": {"aligntune.io/job-name": "chat"},
                "ownerReferences": [{"name": job}],
                **metadata,
            },
            "status": {"phase": phase},
        }
        where = {"resource": "pods", "namespace": "ns", "name": uid}
        told = {"objectRef": where, "responseStatus": {"code": 200}, "responseObject": pod}
        return json.dumps({"kind": "Event", "verb": verb} | told, separators=(",", ":")) + "\n"

    asked = {"deletionTimestamp": "2026-11-01T12:00:00Z"}
    log = tmp_path / "audit.log"
    log.write_text(
        event("patch", "a", "chat-1", "Running")
        + event("patch", "a-peer", "chat-1", "Running")
        + event("delete", "a", "chat-1", "Running", **asked)
        + event("delete", "a", "chat-1", "Running", **asked)
        + event("delete", "a-late", "chat-1", "Pending", **asked)
        + event("patch", "a-late", "chat-1", "Running", **asked)
        + event("patch", "b", "chat-2", "Running")
        + event("patch", "a-peer", "chat-1", "Failed")
        + event("patch", "b", "chat-2", "Succeeded")
        + event("patch", "c", "chat-3", "Running")
    )
    [found] = overlapping(pods_that_ran(log, "ns"))
    assert "'b'" in found
    assert "'a-peer'" in found


@pytest.mark.parametrize(
    ("name", "reasons", "counts", "struck", "right"),
    [
        ("done-0", ["Succeeded"], (0, 0), set(), True),
        ("done-0", ["NcclError", "Succeeded"], (1, 0), set(), False),
        ("retried-0", ["NcclError", "Succeeded"], (1, 0), set(), True),
        ("retried-0", ["Preempted", "Succeeded"], (0, 1), set(), False),
        ("retried-0", ["Succeeded"], (0, 0), set(), False),
        ("held-0", ["NodeLost", "Succeeded"], (0, 1), {1}, True),
        ("held-0", ["Preempted", "Succeeded"], (1, 0), {1}, False),
        ("held-0", ["Unknown", "Succeeded"], (0, 1), {1}, False),
        ("held-0", ["Succeeded"], (0, 0), {1}, False),
        ("wrong-0", ["DataError"], (0, 0), set(), True),
        ("wrong-0", ["Unknown"], (0, 0), set(), False),
        ("gang-0", ["Unschedulable", "Unschedulable", "Succeeded"], (2, 0), set(), True),
        ("gang-0", ["Unschedulable", "Succeeded"], (0, 1), set(), False),
        ("gang-0", ["Preempted", "Succeeded"], (0, 1), set(), False),
    ],
)
def test_an_attempt_whose_cause_or_count_is_not_what_was_done_is_found(
    name: str, reasons: list[str], counts: tuple[int, int], struck: set[int], right: bool
) -> None:
    """The check itself."""
    history = [{"attempt": number, "reason": reason} for number, reason in enumerate(reasons, 1)]
    told = {"restarts": counts[0], "preemptions": counts[1], "history": history}
    assert (mistold(name, told, struck, {"NcclError"}) == "") is right


def test_an_attempt_beside_another_is_found_in_the_audit_log(control_plane: ControlPlane) -> None:
    """The check itself: two Jobs of one AlignTuneJob by hand, as a broken operator would."""
    server = ApiServer(control_plane)
    server("POST", "/api/v1/namespaces", {"metadata": {"name": "doubled"}})
    parent = {"metadata": {"name": "chat"}}
    uid = server("POST", "/api/v1/namespaces/doubled/configmaps", parent)["metadata"]["uid"]

    def job(number: int) -> dict[str, object]:
        container = {"name": "trainer", "image": "trainer"}
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "chat", "uid": uid}
        return {
            "metadata": {
                "name": f"chat-{number}",
                "labels": {"aligntune.io/job-name": "chat", "aligntune.io/attempt": str(number)},
                "ownerReferences": [owner],
            },
            "spec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}},
        }

    path = "/apis/batch/v1/namespaces/doubled/jobs"
    for number in (1, 2, 4):
        server("POST", path, job(number))
        if number == 2:
            server("DELETE", f"{path}/chat-2", {"propagationPolicy": "Background"})
    server.close()
    found = list(doubled(attempts_of(audit_log(control_plane.state), "doubled")))
    assert len(found) == 2
    assert found[0] == f"{uid}: attempts [1, 2, 4]"
    assert "chat-2" in found[1]
    assert "chat-1" in found[1]
