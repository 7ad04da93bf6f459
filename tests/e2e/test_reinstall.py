"""The chart on a real kubelet: installed, upgraded, uninstalled and installed again."""

from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.before import write_commit_before
from tests.cluster.cluster import Cluster
from tests.cluster.helm import CHART, RELEASE
from tests.cluster.helm import NAMESPACE as OPERATORS
from tests.cluster.processes import REPOSITORY, wait_until
from tests.e2e.conftest import Chart, Tenant
from tests.e2e.test_interruptions import job, wait_for_step

ENDLESS = 100_000
"""Steps of a job that trains until the test suspends it, however fast the machine is."""
OURS = ("--selector", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")


@pytest.mark.timeout(2400)
def test_a_running_job_outlives_upgrade_uninstall_and_reinstall(
    cluster: Cluster, tenant: Tenant, chart: Chart, tmp_path: Path
) -> None:
    """The upgrade is from the chart and the operator of the commit before."""
    before, archive = tmp_path / "before", tmp_path / "operator.tar"
    write_commit_before(before)
    images.write_operator_before(before, archive)
    cluster.load_image(archive)
    tag = images.OPERATOR_BEFORE.rpartition(":")[2]
    chart.install("--set", f"image.tag={tag}", chart=before / CHART.relative_to(REPOSITORY))
    chart.test()
    assert [Path(file).parts[1] for file in code(cluster)] == ["before", "before"]

    tenant.apply(job("kept", save_every=2, steps=ENDLESS))
    wait_for_step(tenant, "kept", 1)
    pod = tenant.pod("kept")
    chart.upgrade("--set", "settings.logLevel=WARNING", "--set", "replicas=1")
    wait_until("only the new operator is left", lambda: len(replicas(cluster)) == 1, 60)
    assert [Path(file).parts[1] for file in code(cluster)] == ["opt"]
    wait_for_another_step(tenant, "kept")
    assert tenant.pod("kept") == pod
    chart.uninstall()
    kinds = "all,roles,rolebindings,clusterroles,clusterrolebindings,serviceaccounts"
    wait_until("nothing is left", lambda: cluster.kubectl("get", kinds, "-A", *OURS) == "", 60)
    assert tenant.pod("kept") == pod

    chart.install()
    wait_for_another_step(tenant, "kept")
    assert tenant.pod("kept") == pod
    tenant.suspend("kept")
    tenant("wait", "--for=condition=Suspended", "atj/kept", "--timeout=180s")
    attempts = tenant.status("kept")["attempts"]
    assert (attempts["restarts"], attempts["preemptions"]) == (0, 0)
    assert [attempt["reason"] for attempt in attempts["history"]] == ["Suspended"]
    tenant("delete", "atj", "kept")
    chart.uninstall()


def wait_for_another_step(tenant: Tenant, name: str) -> None:
    wait_for_step(tenant, name, tenant.status(name)["progress"]["step"] + 1)


def replicas(cluster: Cluster) -> list[str]:
    return cluster.kubectl("-n", OPERATORS, "get", "pods", *OURS).split()


def code(cluster: Cluster) -> list[str]:
    """Which file each replica of the operator is begun from."""
    ask = "import aligntune_operator as operator; print(operator.__file__)"
    return [
        cluster.kubectl("-n", OPERATORS, "exec", replica, "--", "python3", "-c", ask).strip()
        for replica in replicas(cluster)
    ]
