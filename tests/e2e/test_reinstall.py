"""The chart on a real kubelet: installed, upgraded, uninstalled and installed again."""

import json
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.helm import NAMESPACE as OPERATORS
from tests.cluster.helm import RELEASE, chart_before
from tests.cluster.processes import wait_until
from tests.e2e.conftest import Chart, Tenant
from tests.e2e.test_interruptions import finish, job, wait_for_step


@pytest.mark.timeout(2400)
def test_a_running_job_outlives_upgrade_uninstall_and_reinstall(
    cluster: Cluster, tenant: Tenant, chart: Chart, tmp_path: Path
) -> None:
    chart.install(chart=chart_before(tmp_path))
    chart.test()
    deployment = json.loads(
        cluster.kubectl("-n", OPERATORS, "get", "deployment", RELEASE, "-o", "json")
    )
    assert deployment["status"]["readyReplicas"] == 2

    tenant.apply(job("kept", save_every=2))
    wait_for_step(tenant, "kept", 1)
    pod = tenant.pod("kept")
    chart.upgrade("--set", "settings.logLevel=WARNING", "--set", "replicas=1")
    assert tenant.pod("kept") == pod
    chart.uninstall()
    mine = ("--selector", f"app.kubernetes.io/instance={RELEASE}", "-A", "-o", "name")
    kinds = "all,roles,rolebindings,clusterroles,clusterrolebindings,serviceaccounts"
    wait_until("nothing is left", lambda: cluster.kubectl("get", kinds, *mine) == "", 60)
    assert tenant.pod("kept") == pod

    chart.install()
    attempts = finish(tenant, "kept")
    assert len(attempts["history"]) == 1, "nothing was started anew"
    chart.uninstall()
