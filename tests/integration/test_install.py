"""The chart on a real API server: what it makes is valid, its rights suffice, its limits hold."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from tests.cluster.binaries import MODULES, downloaded
from tests.cluster.control_plane import ControlPlane, audit_log
from tests.cluster.helm import CHART, helm, sets
from tests.cluster.operator_process import Operator
from tests.cluster.processes import REPOSITORY
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]
Install = Callable[..., str]

CASES = sorted((REPOSITORY / "tests" / "golden" / "chart").glob("*/objects.yaml"))
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
MONITORS = ("servicemonitors", "podmonitors", "prometheusrules")
"""Resources of Prometheus' operator; its CRDs are there, it itself is not."""

SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}


@pytest.fixture
def install(control_plane: ControlPlane, api: Api) -> Iterator[Install]:
    """Installs the chart into the test's namespace, beside the CRD that is there; its name."""
    release = f"release-{api.namespace}"
    where = ("--namespace", api.namespace)

    def make(**values: object) -> str:
        options = sets({"crd.install": "false", **values})
        helm("install", release, CHART, *where, *options, kubeconfig=control_plane.kubeconfig)
        return release

    yield make
    helm("uninstall", release, *where, kubeconfig=control_plane.kubeconfig)


@pytest.fixture(scope="module")
def monitors(control_plane: ControlPlane) -> None:
    """Prometheus' operator has taught the API server its kinds."""
    module = downloaded(MODULES / "prometheus-operator", PROMETHEUS_OPERATOR)
    for resource in MONITORS:
        name = f"monitoring.coreos.com_{resource}.yaml"
        control_plane.install(module / "example" / "prometheus-operator-crd" / name)


@pytest.mark.usefixtures("monitors")
@pytest.mark.parametrize("file", CASES, ids=lambda file: file.parent.name)
def test_the_api_server_takes_every_object_of_the_chart(
    control_plane: ControlPlane, file: Path
) -> None:
    objects = list(YAML(typ="safe").load_all(file))
    for namespace in {item["metadata"].get("namespace") for item in objects} - {None}:
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    dry = ("--dry-run=server", "--validate=strict")
    told = control_plane.kubectl("create", *dry, "-f", "-", stdin=listed)
    assert len(told.splitlines()) == len(objects)


def operator_of(
    release: str, control_plane: ControlPlane, api: Api, folder: Path, *options: str
) -> Operator:
    """The operator with the rights of the release's service account."""
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    [entry] = config["users"]
    entry["user"] = {"token": api("create", "token", release).strip()}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    lease = ("--lease-namespace", api.namespace, "--lease-name", release)
    return Operator(kubeconfig, folder / "operator.log", *lease, *options)


@pytest.mark.parametrize("mode", ["cluster-wide", "namespaced"])
def test_the_operator_has_every_right_that_it_needs(
    control_plane: ControlPlane, api: Api, install: Install, manifest: Make, mode: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    release = install(**({"namespaces": f"{{{api.namespace}}}"} if mode == "namespaced" else {}))
    where = ("--namespaces", api.namespace) if mode == "namespaced" else ()
    operator = operator_of(release, control_plane, api, tmp_path, *where)
    operator.start()
    api.until("it leads", lambda: operator.leads)

    api.apply(manifest("one", runtime={"gpusPerNode": 0, "nodes": 2}))
    api.until("one started", lambda: api.phase("one") == "Starting")
    api("delete", "job", "-l", "aligntune.io/job-name=one")
    api.until("it ended", lambda: bool(api.status("one").get("attempts", {}).get("history")))
    api("delete", "atj", "one")

    refused = [name for name in operator.metrics() if 'code="403"' in name]
    assert operator.stop() == 0
    assert not refused
    assert "orbidden" not in operator.log


def test_replicas_that_are_not_ready_hold_up_no_drain(api: Api, install: Install) -> None:
    release = install(replicas=2)
    api.until("there are two", lambda: len(api.every("pods")) == 2)
    before = [pod["metadata"]["name"] for pod in api.every("pods")]
    ill = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
    for name in before:
        patch = json.dumps({"status": ill})
        api("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)

    def expected() -> int:
        return int(api.get("pdb", release).get("status", {}).get("expectedPods", 0))

    api.until("the budget knows them", lambda: expected() == 2)
    for name in before:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        url = f"/api/v1/namespaces/{api.namespace}/pods/{name}/eviction"
        api("create", "--raw", url, "-f", "-", stdin=json.dumps(eviction))
        assert name not in {
            pod["metadata"]["name"]
            for pod in api.every("pods")
            if "deletionTimestamp" not in pod["metadata"]
        }


Right = tuple[str, str, str]
"""API group, resource, verb."""

RARELY_USED: dict[Right, str] = {
    ("aligntune.io", "aligntunejobs/finalizers", "update"): "OpenShift demands it of whoever sets"
    " blockOwnerDeletion; the admission plugin is on in tests/e2e only",
    ("batch", "jobs", "get"): "a Job that an earlier life of the operator has made and not seen is"
    " found by its name; test_lifecycle.py kills it at any time",
}
"""Rights that the life below does not need, and who does."""


def test_the_operator_has_not_one_right_more_than_it_uses(
    control_plane: ControlPlane,
    api: Api,
    install: Install,
    manifest: Make,
    local_queues: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    release = install(**{"jobNetworkPolicies.enabled": "true"})
    granted = rights_of(api, "clusterrole", release) | rights_of(api, "role", f"{release}-leader")
    operator = operator_of(release, control_plane, api, tmp_path, "--network-policies")
    operator.start()
    api.apply(local_queues("gpu"))
    queued = manifest("queued")
    queued["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    policy = {"podRetentionSeconds": 0, "ttlSecondsAfterFinished": 5}
    api.apply(
        queued,
        manifest("gang", runtime={"nodes": 2, "serviceAccountName": "default"}),
        manifest("over", policy=policy),
    )
    api.play_kubelet(api.pod_of("over"), terminated={"exitCode": 0, "message": "{}"})
    api.until("the gang began", lambda: api.phase("gang") == "Starting")
    api("delete", "job", "-l", "aligntune.io/job-name=gang")

    def unused() -> set[Right]:
        user = f"system:serviceaccount:{api.namespace}:{release}"
        return granted - used_by(user, audit_log(control_plane.state))

    with suppress(TimeoutError):  # which would not name them
        api.until("all other rights are used", lambda: unused() <= RARELY_USED.keys())
    assert operator.stop() == 0
    assert unused() == RARELY_USED.keys()


def rights_of(api: Api, kind: str, name: str) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in api.get(kind, name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used_by(user: str, log: Path) -> set[Right]:
    """What a user was granted on demand, by the API server's audit log."""
    requests = [json.loads(line) for line in log.read_text().splitlines() if user in line]
    found = set()
    for request in requests:
        about = request.get("objectRef", {})
        if request["user"]["username"] == user and "resource" in about:
            assert request["responseStatus"]["code"] != 403, request
            parts = filter(None, (about["resource"], about.get("subresource")))
            found.add((about.get("apiGroup", ""), "/".join(parts), request["verb"]))
    return found


class TestLimits:
    """Of what `kubectl apply` may ask for."""

    @pytest.fixture
    def refusal(self, api: Api, install: Install, manifest: Make) -> Callable[..., str]:
        """What a job is refused with in a namespace where the limits hold."""
        api("label", "namespace", api.namespace, "limited=here")

        def told(*, limits: dict[str, object], **spec: Any) -> str:
            values = {f"limits.{name}": value for name, value in limits.items()}
            where = {"limits.namespaceLabels.limited": "here"}
            install(**values, **where, imageRegistry="mirror.example")
            job = manifest("beyond", **spec)
            api.until("the policy is in force", lambda: not self.passes(api, job))
            return api.refusal("create", "-f", "-", stdin=job)

        return told

    @staticmethod
    def passes(api: Api, job: dict[str, Any], *options: str) -> bool:
        try:
            api("create", "--dry-run=server", *options, "-f", "-", stdin=job)
        except subprocess.CalledProcessError as error:
            if "denied request" not in error.stderr:
                raise
            return False
        return True

    @staticmethod
    def may_create(api: Api, *options: str) -> bool:
        review = ("auth", "can-i", "create", "aligntunejobs.aligntune.io")
        try:
            return api(*review, *options).strip() == "yes"
        except subprocess.CalledProcessError:
            return False

    def test_gpus_are_counted_over_all_nodes(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        told = refusal(limits={"gpusPerJob": 8}, runtime={"nodes": 3, "gpusPerNode": 4})
        assert "nodes x gpusPerNode is 12 GPUs, and a job may have at most 8 here" in told
        assert self.passes(api, manifest("most", runtime={"nodes": 2, "gpusPerNode": 4}))
        slices = {"nodes": 3, "gpusPerNode": 4, "gpuResource": "nvidia.com/mig-1g.10gb"}
        assert not self.passes(api, manifest("slices", runtime=slices))

    def test_no_name_of_a_device_leads_around_the_count_of_gpus(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        def asking_for(device: str) -> dict[str, Any]:
            return {"gpusPerNode": 0, "resources": {"limits": {device: 16, "memory": "1Gi"}}}

        limits = {"gpusPerJob": 8, "devices": "{rdma/*,example.com/nic}"}
        told = refusal(limits=limits, runtime=asking_for("example.com/accelerator"))
        assert "GPUs are counted here, and example.com/accelerator may be such" in told
        for device in ("nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb", "google.com/tpu"):
            assert not self.passes(api, manifest("hidden", runtime=asking_for(device)))
        for device in ("rdma/ib", "example.com/nic"):
            assert self.passes(api, manifest("networked", runtime=asking_for(device)))

    def test_priority_classes_are_those_listed_or_none(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        told = refusal(
            limits={"priorityClasses": "{batch}"},
            runtime={"priorityClassName": "system-node-critical"},
        )
        assert "priorityClassName: system-node-critical is not allowed here, only batch" in told
        assert self.passes(api, manifest("none"))
        assert self.passes(api, manifest("one", runtime={"priorityClassName": "batch"}))

    def test_images_are_those_listed_or_the_default(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        limits = {"images": "{example.com/ml/*,example.com/one:1}"}
        told = refusal(limits=limits, runtime={"image": "example.com/mlevil/x"})
        assert "spec.runtime.image: example.com/mlevil/x is not allowed here, only" in told
        default = "mirror.example/aligntune/trainer:0.1.0-trl"
        for image in ("", default, "example.com/ml/any:2", "example.com/one:1"):
            assert self.passes(api, manifest("allowed", runtime={"image": image}))

    def test_service_accounts_are_those_listed_or_none(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        limits = {"serviceAccounts": "{trainer}"}
        told = refusal(limits=limits, runtime={"serviceAccountName": "admin"})
        assert "spec.runtime.serviceAccountName: admin is not allowed here, only trainer" in told
        assert self.passes(api, manifest("none"))
        assert self.passes(api, manifest("one", runtime={"serviceAccountName": "trainer"}))

    def test_no_secret_gets_into_a_job_by_any_way(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        told = refusal(limits={"secrets": "none"}, runtime={"env": [SECRET]})
        assert "Secrets are not allowed in jobs here" in told
        for spec in (
            {"runtime": {"envFrom": [{"secretRef": {"name": "hub"}}]}},
            {"runtime": {"volumes": [{"name": "hub", "secret": {"secretName": "hub"}}]}},
            {"hub": {"tokenSecret": {"name": "hub", "key": "token"}}},
        ):
            assert not self.passes(api, manifest("secret", **spec))
        config = [{"configMapRef": {"name": "settings"}}]
        assert self.passes(api, manifest("config", runtime={"envFrom": config}))

    def test_secrets_go_only_to_jobs_of_authors_who_may_read_them(
        self, api: Api, install: Install, manifest: Make
    ) -> None:
        api("label", "namespace", api.namespace, "limited=here")
        install(**{"limits.secrets": "readable", "limits.namespaceLabels.limited": "here"})
        author = ("--as", "author")
        api("create", "rolebinding", "author", "--clusterrole=edit", "--user=author")
        job = manifest("secret", runtime={"env": [SECRET]})
        api("create", "role", "jobs", "--verb=create", "--resource=aligntunejobs.aligntune.io")
        api("create", "rolebinding", "jobs", "--role=jobs", "--user=guest")
        guest = ("--as", "guest")
        api.until("the policy is in force", lambda: not self.passes(api, job, *guest))
        told = api.refusal("create", *guest, "-f", "-", stdin=job)
        assert f"guest may not read those of namespace {api.namespace}" in told
        assert self.passes(api, manifest("plain"), *guest)
        api.until("the role edit covers jobs", lambda: self.may_create(api, *author))
        assert self.passes(api, job, *author)

    def test_a_job_that_was_there_before_can_be_suspended_and_deleted(
        self, api: Api, refusal: Callable[..., str], manifest: Make
    ) -> None:
        api.apply(manifest("earlier", runtime={"gpusPerNode": 16}))
        refusal(limits={"gpusPerJob": 8}, runtime={"gpusPerNode": 16})
        api("patch", "atj", "earlier", "--type=merge", "-p", '{"spec": {"suspend": true}}')
        api("label", "atj", "earlier", "team=research")
        earlier = api.get("atj", "earlier")
        assert earlier["spec"]["suspend"]
        assert earlier["metadata"]["labels"]["team"] == "research"
        api("delete", "atj", "earlier")
        assert api.every("atj") == []
