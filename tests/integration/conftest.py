"""A real API server with real controllers, and the operator as a real process against it."""

import itertools
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aligntune.api.labels import JOB_NAME
from tests.cluster.binaries import binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import CRD, DEADLINE_SECONDS, Operator, align_tune_job, claim
from tests.cluster.processes import wait_until
from tests.cluster.queues import LOCAL_QUEUES, local_queue


class Api:
    """kubectl in one namespace, with JSON in and out."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane = control_plane
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: object = None) -> str:
        text = stdin if isinstance(stdin, str | None) else json.dumps(stdin)
        return self._control_plane.kubectl("-n", self.namespace, *arguments, stdin=text)

    def refusal(self, *arguments: str, stdin: object = None) -> str:
        """What kubectl says when the API server will not."""
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self(*arguments, stdin=stdin)
        return str(caught.value.stderr)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def every(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self("get", kind, "-l", selector, "-o", "json"))[
            "items"
        ]
        return items

    def apply(self, *manifests: dict[str, Any]) -> None:
        self("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": manifests})

    def create_deep(self, manifest: dict[str, Any]) -> None:
        """Puts 3,000 levels in place of "HERE"; Python's JSON reader gives up at 1,000."""
        text = json.dumps(manifest).replace('"HERE"', '{"a":' * 3000 + "{}" + "}" * 3000)
        self("create", "-f", "-", stdin=text)

    def status(self, name: str) -> dict[str, Any]:
        return self.get("aligntunejob", name).get("status", {})

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase", ""))

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        conditions = self.status(name).get("conditions", [])
        return next(
            (c for c in conditions if c["type"] == kind),
            {"status": "absent", "reason": "", "message": ""},
        )

    def jobs_of(self, name: str) -> list[dict[str, Any]]:
        return self.every("jobs", f"{JOB_NAME}={name}")

    def pod_of(self, name: str) -> dict[str, Any]:
        self.until(f"{name} has a pod", lambda: bool(self.every("pods", f"{JOB_NAME}={name}")))
        return self.every("pods", f"{JOB_NAME}={name}")[0]

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        wait_until(what, condition, DEADLINE_SECONDS)

    def bind(self, pod: dict[str, Any]) -> None:
        """Stand-in for the scheduler: a pod with a node is not gone as soon as it is deleted."""
        name = pod["metadata"]["name"]
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.namespace}}
        self("apply", "-f", "-", stdin=node)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"kind": "Node", "name": self.namespace},
        }
        url = f"/api/v1/namespaces/{self.namespace}/pods/{name}/binding"
        self("create", "--raw", url, "-f", "-", stdin=binding)

    def play_kubelet(self, pod: dict[str, Any], **state: Any) -> None:
        """Stand-in for the kubelet, which has no place here: writes what it would into a pod."""
        phase = "Running"
        if "terminated" in state:
            phase = "Succeeded" if state["terminated"]["exitCode"] == 0 else "Failed"
        status = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": "trainer",
                    "image": "trainer",
                    "imageID": "",
                    "ready": phase == "Running",
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        patch = json.dumps({"status": status})
        name = pod["metadata"]["name"]
        self("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Built outside of any test's own time: the first run on a machine takes many minutes."""
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm"):
        binary(name)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    state = tmp_path_factory.mktemp("control-plane") / "state"
    with ControlPlane(state, audits_accounts=True) as running:
        running.install(CRD)
        yield running


_numbers = itertools.count()


@pytest.fixture
def api(control_plane: ControlPlane) -> Api:
    namespace = f"test-{next(_numbers)}"
    control_plane.kubectl("create", "namespace", namespace)
    api = Api(control_plane, namespace)
    api.apply(claim("models"))
    return api


@pytest.fixture
def local_queues(control_plane: ControlPlane, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Makes LocalQueues, once the API server knows their kind."""
    file = tmp_path / "localqueues.yaml"
    file.write_text(json.dumps(LOCAL_QUEUES))
    control_plane.install(file)
    return local_queue


@pytest.fixture
def operator(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Operator]:
    running = Operator(control_plane.kubeconfig, tmp_path / "operator.log")
    running.start()
    yield running
    if running.running:
        running.stop(signal.SIGKILL)
    log = (tmp_path / "operator.log").read_text()
    assert "Traceback" not in log, log
    assert " 422: " not in log, log


@pytest.fixture
def manifest() -> Callable[..., dict[str, Any]]:
    return align_tune_job
