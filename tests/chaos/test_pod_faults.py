"""The fault table of pods that train for real: a kubelet, containers, and SmolLM2 on the CPU.

ROWS=NAME,NAME takes some rows alone, TOGETHER=N takes N at the same time: most of a row is waiting,
where the machine has the memory (2 GB a row) and is not busy with others' work.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aligntune.api import labels
from tests.chaos.invariants import attempts_of, doubled
from tests.chaos.pod_rows import COUNTED, FREE, ROWS, SCRATCH, TOKEN_SECRET, PodRow
from tests.chaos.scene import Scene, make_small_disk
from tests.chaos.together import Trial, go_through, trials
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import audit_log
from tests.cluster.processes import REPOSITORY, wait_until
from tests.cluster.queues import LOCAL_QUEUES, local_queue
from tests.e2e.conftest import (  # noqa: F401 - fixtures
    FINISH_SECONDS,
    NAMESPACE,
    Tenant,
    cluster,
    tenant,
)
from tests.e2e.test_interruptions import finish, job, wait_for_step
from tests.hub.hub import WRITER, Hub

RUNS = int(os.environ.get("RUNS", "1"))
CHOSEN = os.environ.get("ROWS", "").split(",")
GOING_THROUGH = [row for row in ROWS if row.name in CHOSEN or CHOSEN == [""]]
TOGETHER = int(os.environ.get("TOGETHER", "1"))
ROW_SECONDS = 2400
"""How long one may take; nothing here measures time."""


@pytest.fixture(scope="module")
def hub(cluster: Cluster, tenant: Tenant) -> Iterator[Hub]:  # noqa: F811
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": TOKEN_SECRET}}
    tenant("apply", "-f", "-", stdin=secret | {"stringData": {"token": WRITER}})
    with Hub(host=cluster.expose_host()) as running:
        yield running


@pytest.fixture(scope="module")
def queues(cluster: Cluster, tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> None:  # noqa: F811
    file = tmp_path_factory.mktemp("queues") / "localqueues.yaml"
    file.write_text(json.dumps(LOCAL_QUEUES))
    cluster.install(file)
    for row in ROWS:
        if row.queue:
            tenant("apply", "-f", "-", stdin=local_queue(row.queue))


@pytest.fixture
def operator_process(cluster: Cluster, tmp_path: Path) -> Iterator[None]:  # noqa: F811
    """The operator outside the cluster, with the CRD by kubectl."""
    cluster.install(REPOSITORY / "crds" / "aligntune.io_aligntunejobs.yaml")
    log = tmp_path / "operator.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aligntune_operator", "--http-port", "0",
             "--trl-image", "aligntune/trainer:test",
             "--unsloth-image", "aligntune/trainer:test-unsloth", "--poll-interval-seconds", "2"],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            stdout=out,
            stderr=out,
        )  # fmt: skip
    yield
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def manifest(name: str, row: PodRow, hub: Hub) -> dict[str, Any]:
    policy = {"terminationGracePeriodSeconds": 60} | row.spec.get("policy", {})
    made = job(name, row.save_every, **{**row.spec, "policy": policy})
    spec = made["spec"]
    spec["sft"]["train"]["perDeviceBatchSize"] = 1
    spec["sft"]["model"]["maxLength"] = 64
    spec["storage"]["subPath"] = name
    if row.queue:
        made["metadata"]["labels"] = {labels.QUEUE_NAME: row.queue}
    # On a busy machine the threads of a small model only wait for each other.
    variables = {"OMP_NUM_THREADS": "1"}
    if "hub" in row.spec:
        variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
    spec["runtime"]["env"] = [{"name": k, "value": v} for k, v in variables.items()]
    if row.scratch:
        volume = {"name": "scratch", "emptyDir": {"sizeLimit": row.scratch}}
        spec["runtime"]["volumes"].append(volume)
        spec["runtime"]["volumeMounts"].append({"name": "scratch", "mountPath": SCRATCH})
    return made


@pytest.mark.usefixtures("operator_process", "queues")
@pytest.mark.parametrize("tried", trials(GOING_THROUGH, RUNS, TOGETHER, ROW_SECONDS))
def test_a_fault_of_a_pod_loses_no_step_and_doubles_none(
    tried: tuple[Trial[PodRow], ...],
    cluster: Cluster,  # noqa: F811
    tenant: Tenant,  # noqa: F811
    hub: Hub,
) -> None:
    def one(trial: Trial[PodRow]) -> None:
        try:
            check(trial.row, Scene(cluster, tenant, hub, str(trial)))
        except Exception as error:
            error.add_note(f"in row {trial}")
            raise
        print(trial, "held")  # noqa: T201 - pytest -s

    go_through(tried, one, TOGETHER)


def check(row: PodRow, scene: Scene) -> None:
    """Goes through a row, and looks at what must hold."""
    if row.disk:
        make_small_disk(scene.cluster, scene.folder, row.disk)
    scene.tenant.apply(manifest(scene.name, row, scene.hub))
    if row.at_step:
        wait_for_step(scene.tenant, scene.name, row.at_step)
    row.fault(scene)
    if row.recovers:
        attempts = finish(scene.tenant, scene.name)
        assert len(attempts["history"]) == row.attempts, attempts
        assert attempts["history"][-1].get("fromStep", 0) >= row.at_step - row.save_every, attempts
    else:
        wait_until("it has failed", lambda: phase(scene) == "Failed", FINISH_SECONDS)
        attempts = scene.tenant.status(scene.name)["attempts"]
        scene.tenant("delete", "atj", scene.name)
    reason = attempts["history"][0]["reason"]
    assert reason in row.reasons, attempts
    if row.recovers:
        counted = attempts["restarts"], attempts["preemptions"]
        assert counted == (int(reason in COUNTED), int(reason in FREE)), attempts
    assert list(doubled(attempts_of(audit_log(scene.cluster.state), NAMESPACE))) == []
    for kind in ("pods", "jobs", "services"):
        children = ("get", kind, "-l", f"aligntune.io/job-name={scene.name}", "-o", "name")
        wait_until(f"no {kind} left", lambda children=children: not scene.tenant(*children), 180)


def phase(scene: Scene) -> str:
    return str(scene.tenant.status(scene.name).get("phase"))
