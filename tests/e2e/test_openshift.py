"""The operator and jobs under ids that the platform assigns: openshift.yaml plays OpenShift."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.helm import NAMESPACE as OPERATORS
from tests.cluster.helm import RELEASE
from tests.cluster.images import OPERATOR
from tests.cluster.processes import wait_until
from tests.e2e.conftest import NAMESPACE, Chart, Tenant, example

POLICIES = Path(__file__).parent / "openshift.yaml"
IDS = {OPERATORS: 1_000_650_000, NAMESPACE: 1_000_660_000}
"""The first user, and group, of each namespace's range."""
RANGES = ("openshift.io/sa.scc.uid-range", "openshift.io/sa.scc.supplemental-groups")


@pytest.fixture(scope="class")
def assigned_ids(cluster: Cluster, tenant: Tenant) -> Iterator[None]:
    for namespace, first in IDS.items():
        ranges = [f"{name}={first}/10000" for name in RANGES]
        cluster.kubectl("annotate", "namespace", namespace, *ranges)
        cluster.kubectl("label", "namespace", namespace, "ids=openshift")
    cluster.kubectl("apply", "-f", str(POLICIES))
    wait_until("another group is refused", lambda: "only group" in refusal(tenant, 65532), 60)
    wait_until("ids are assigned", lambda: not refusal(tenant, None), 60)
    yield
    cluster.kubectl("delete", "-f", str(POLICIES))
    for namespace in IDS:
        cluster.kubectl("annotate", "namespace", namespace, *(f"{name}-" for name in RANGES))
        cluster.kubectl("label", "namespace", namespace, "ids-")


@pytest.fixture(scope="class")
def operator_on_openshift(chart: Chart, assigned_ids: None) -> Iterator[None]:  # noqa: ARG001
    chart.install("--set", "trainer.fsGroup=null")
    yield
    chart.uninstall()


def refusal(tenant: Tenant, group: int | None) -> str:
    """What the API server has against a pod with this group in the jobs' namespace; dry."""
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asks"},
        "spec": {
            "securityContext": {} if group is None else {"fsGroup": group},
            "containers": [{"name": "asks", "image": OPERATOR, "securityContext": restricted}],
        },
    }
    try:
        tenant("create", "--dry-run=server", "-f", "-", stdin=pod)
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    return ""


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("operator_on_openshift")
class TestAssignedIds:
    def test_the_operator_is_ready_as_a_user_that_its_image_does_not_know(
        self, cluster: Cluster, chart: Chart
    ) -> None:
        chart.test()
        command = ("exec", f"deployment/{RELEASE}", "--", "id")
        user, group, groups = cluster.kubectl("-n", OPERATORS, *command).split()
        first = IDS[OPERATORS]
        assert (user, group) == (f"uid={first}", "gid=0(root)")
        assert groups == f"groups=0(root),{first}"

    @pytest.mark.parametrize("name", ["sft-chat", "sft-unsloth"])
    def test_a_job_trains_to_its_end_as_a_user_that_its_image_does_not_know(
        self, tenant: Tenant, name: str
    ) -> None:
        manifest = example(name)
        sft = manifest["spec"]["sft"]
        sft.pop("evaluation", None)
        sft["train"]["maxSteps"] = 2
        tenant.apply(manifest)
        status = tenant.until_succeeded(name)
        saved = (tenant.models / status["model"]["path"] / "adapter_config.json").stat()
        assert (saved.st_uid, saved.st_gid) == (IDS[NAMESPACE], 0)
        tenant("delete", "atj", name)
