"""A whole cluster with a kubelet, the chart on it, and a namespace as tenants have one."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aligntune.api.env import PROGRESS_PORT
from aligntune.api.labels import JOB_NAME
from tests.cluster import cache, packages
from tests.cluster.cluster import Cluster
from tests.cluster.helm import BUILT_IMAGES, CHART, RELEASE, helm, sets
from tests.cluster.helm import NAMESPACE as OPERATORS
from tests.cluster.processes import REPOSITORY, wait_until
from tests.cluster.prometheus import Access, proxied, target
from tests.cluster.volumes import (
    PACKAGES,
    SOURCE,
    UNSLOTH,
    environment_volumes,
    pod_volumes,
    volume_mounts,
)

FINISH_SECONDS = 900
"""How long a job may take on a busy machine; nothing here measures time."""
PAUSE_SECONDS = 1.0
"""Between two looks by kubectl, which would take a core from the training that is waited for."""
STATE = REPOSITORY / ".cache" / "e2e"
NAMESPACE = "research"
OPERATORS_PORT = 8080
ENVIRONMENT = (SOURCE, PACKAGES, UNSLOTH)
"""Claims that hold what full trainer images would: the test images are small, see volumes.py."""


class Tenant:
    """A namespace in which Pod Security `restricted` is enforced, seen through kubectl."""

    def __init__(self, cluster: Cluster, models: Path) -> None:
        self._cluster = cluster
        self.models = models

    def __call__(self, *arguments: str, stdin: object = None) -> str:
        text = None if stdin is None else json.dumps(stdin)
        return self._cluster.kubectl("-n", NAMESPACE, *arguments, stdin=text)

    def apply(self, manifest: dict[str, Any]) -> None:
        """Applies a job, with the environment mounted that a full image would bring."""
        runtime = manifest["spec"].setdefault("runtime", {})
        runtime.setdefault("volumes", []).extend(
            volume for volume in pod_volumes() if volume["name"] in ENVIRONMENT
        )
        runtime.setdefault("volumeMounts", []).extend(
            mount for mount in volume_mounts() if mount["name"] in ENVIRONMENT
        )
        self("apply", "-f", "-", stdin=manifest)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", "atj", name, "-o", "json"))
        return found.get("status", {})

    def until_succeeded(self, name: str) -> dict[str, Any]:
        """Waits until a job is over; its status."""

        def ended() -> bool:
            return self.status(name).get("phase") in ("Succeeded", "Failed")

        wait_until(f"{name} has ended", ended, FINISH_SECONDS, pause_seconds=PAUSE_SECONDS)
        status = self.status(name)
        assert status["phase"] == "Succeeded", status.get("failure")
        return status

    def suspend(self, name: str, *, suspend: bool = True) -> None:
        """Sets a job's `spec.suspend`."""
        patch = json.dumps({"spec": {"suspend": suspend}})
        self("patch", "atj", name, "--type=merge", "-p", patch)

    def pod(self, name: str) -> str:
        return self("get", "pods", "-l", f"aligntune.io/job-name={name}", "-o", "name").strip()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if packages.missing():
        packages.install()
    running = Cluster(STATE)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def new_tenant(cluster: Cluster, models: Path) -> Tenant:
    """Makes a tenant's namespace, with claims, and the operator's."""
    subprocess.run([sys.executable, REPOSITORY / "examples" / "prepare.py"], check=True)
    for namespace in (NAMESPACE, OPERATORS):
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl(
            "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
        )
    volumes = environment_volumes(NAMESPACE, models, cache.folder().parent)
    items = {"apiVersion": "v1", "kind": "List", "items": volumes}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(items))
    return Tenant(cluster, models)


@pytest.fixture(scope="session")
def tenant(cluster: Cluster) -> Tenant:
    return new_tenant(cluster, STATE / "models")


class Chart:
    """The chart in the cluster, with the images that were built here."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def install(self, *options: str, chart: Path = CHART) -> None:
        """Returns when every replica is ready."""
        self._helm("install", RELEASE, chart, "--wait", *self._options(), *options)

    def upgrade(self, *options: str) -> None:
        """Returns when every replica of the new revision is ready."""
        self._helm("upgrade", RELEASE, CHART, "--wait", *self._options(), *options)

    def test(self) -> None:
        self._helm("test", RELEASE)

    def uninstall(self) -> None:
        """Returns when all of it is gone; fails if a replica has stumbled."""
        log = self.log()
        self._helm("uninstall", RELEASE, "--wait")
        assert "Traceback" not in log, log
        assert "orbidden" not in log, log

    def log(self) -> str:
        """What every replica has written."""
        pods = ("--selector", f"app.kubernetes.io/instance={RELEASE}", "--tail=-1", "--prefix")
        return self._cluster.kubectl("-n", OPERATORS, "logs", *pods)

    def _helm(self, *arguments: str | Path) -> None:
        helm(*arguments, "--namespace", OPERATORS, kubeconfig=self._cluster.kubeconfig)

    @staticmethod
    def _options() -> list[str]:
        return ["--timeout=180s", *sets({**BUILT_IMAGES, "settings.pollIntervalSeconds": 2})]


@pytest.fixture(scope="session")
def chart(cluster: Cluster) -> Chart:
    return Chart(cluster)


@pytest.fixture(scope="class")
def operator(chart: Chart, tenant: Tenant) -> Iterator[None]:  # noqa: ARG001 - its namespaces
    chart.install()
    yield
    chart.uninstall()


def example(name: str) -> dict[str, Any]:
    """A manifest from examples/."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "examples" / f"{name}.yaml").read_text())
    return found


class Monitoring:
    """What finds pods for Prometheus; Debian's is built without Kubernetes' discovery."""

    def __init__(self, cluster: Cluster, tenant: Tenant, folder: Path) -> None:
        tenant("create", "serviceaccount", "monitoring")
        tenant("create", "clusterrole", "monitoring", "--verb=get", "--resource=pods/proxy")
        tenant("create", "clusterrolebinding", "monitoring", "--clusterrole=monitoring",
               f"--serviceaccount={NAMESPACE}:monitoring")  # fmt: skip
        kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
        [entry] = kubeconfig["clusters"]
        authority = folder / "ca.crt"
        authority.write_bytes(base64.b64decode(entry["cluster"]["certificate-authority-data"]))
        token = tenant("create", "token", "monitoring", "--duration=24h").strip()
        self._access = Access(entry["cluster"]["server"], str(authority), token)
        self._cluster = cluster
        self._trainers, self._operators = folder / "trainers.json", folder / "operators.json"
        self.scrapes = (
            proxied("trainer", self._access, self._trainers),
            proxied(RELEASE, self._access, self._operators, honor_labels=True),
        )
        self.look()

    def look(self) -> None:
        """Tells Prometheus of the pods that there are now."""
        operators = f"app.kubernetes.io/instance={RELEASE}"
        for file, selector, port in (
            (self._trainers, JOB_NAME, PROGRESS_PORT),
            (self._operators, operators, OPERATORS_PORT),
        ):
            found = json.loads(
                self._cluster.kubectl("get", "pods", "-A", "-l", selector, "-o", "json")
            )
            targets = [target(self._access, pod, port) for pod in found["items"]]
            # Prometheus may read it at any moment.
            new = file.with_suffix(".new")
            new.write_text(json.dumps(targets))
            new.replace(file)
