"""The fault table of pods that train for real: a kubelet, containers, and SmolLM2 on the CPU."""

import os
from typing import Any

import pytest

from tests.chaos.invariants import attempts_of, doubled
from tests.chaos.pod_rows import ROWS, PodRow, Scene, make_small_disk
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import audit_log
from tests.cluster.processes import wait_until
from tests.e2e.conftest import (  # noqa: F401 - fixtures
    NAMESPACE,
    Tenant,
    cluster,
    operator_process,
    tenant,
)
from tests.e2e.test_interruptions import FINISH_SECONDS, finish, job, wait_for_step

RUNS = int(os.environ.get("RUNS", "1"))


def manifest(name: str, row: PodRow) -> dict[str, Any]:
    made = job(name, save_every=2, policy={"terminationGracePeriodSeconds": 60})
    made["spec"]["storage"]["subPath"] = name
    if row.memory:
        made["spec"]["runtime"]["resources"] = {"limits": {"memory": row.memory}}
    return made


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("operator_process")
@pytest.mark.parametrize("number", range(RUNS))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fault_of_a_pod_loses_no_step_and_doubles_none(
    row: PodRow,
    number: int,
    cluster: Cluster,  # noqa: F811
    tenant: Tenant,  # noqa: F811
) -> None:
    scene = Scene(cluster, tenant, f"{row.name}-{number}")
    if row.disk:
        make_small_disk(cluster, scene.folder, row.disk)
    tenant.apply(manifest(scene.name, row))
    if row.recovers:
        wait_for_step(tenant, scene.name, 5)
        row.fault(scene)
        attempts = finish(tenant, scene.name)
        assert len(attempts["history"]) == 2, attempts
    else:
        wait_until("it has failed", lambda: phase(scene) == "Failed", FINISH_SECONDS)
        attempts = tenant.status(scene.name)["attempts"]
        tenant("delete", "atj", scene.name)
    assert attempts["history"][0]["reason"] in row.reasons, attempts
    assert list(doubled(attempts_of(audit_log(cluster.state), NAMESPACE))) == []
    for kind in ("pods", "jobs", "services"):
        children = ("get", kind, "-l", f"aligntune.io/job-name={scene.name}", "-o", "name")
        wait_until(f"no {kind} left", lambda children=children: not tenant(*children), 180)


def phase(scene: Scene) -> str:
    return str(scene.tenant.status(scene.name).get("phase"))
