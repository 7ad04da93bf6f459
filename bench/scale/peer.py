"""Kubeflow Trainer with JobSet beside us, as shipped: their own manifests, flags and limits.

What differs is what a Deployment, a kubelet and kube-proxy would do: the controllers are processes,
each with a /tmp of its own, as a container has, in which its certificates are laid down; the
Services of their webhooks lead to this machine.
"""

import json
import shutil
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from bench.scale import modules
from bench.scale.sides import Object
from bench.scale.world import World, kubeconfig_of
from tests.cluster.binaries import downloaded
from tests.cluster.kubectl import succeeds
from tests.cluster.processes import Processes, free_port, wait_until

CERTIFICATES = "k8s-webhook-server/serving-certs"
"""Where both look for their webhooks' certificates, below /tmp."""
JOBSET_CONFIG = "controller_manager_config.yaml"
IN_OWN_TMP = ("unshare", "--mount", "--map-root-user", "sh", "-c")
MOUNT_AND_RUN = 'mount --bind "$0" /tmp && exec "$@"'


class Controller(NamedTuple):
    """One of the two processes."""

    name: str
    """What the report calls it."""
    program: Callable[[], Path]
    namespace: str
    account: str
    """Its service account."""
    secret: str
    """Its own certificates, which it makes by itself."""


JOBSET = Controller(
    "jobset",
    modules.jobset,
    "jobset-system",
    "jobset-controller-manager",
    "jobset-webhook-server-cert",
)
TRAINER = Controller(
    "trainer",
    modules.trainer,
    "kubeflow-system",
    "kubeflow-trainer-controller-manager",
    "kubeflow-trainer-webhook-cert",
)


@contextmanager
def peer(around: World, its_trainer: Controller = TRAINER) -> Iterator[None]:
    """Both controllers, ready."""
    for controller in (JOBSET, its_trainer):
        controller.program()  # built before the first deadline begins to run
    processes = Processes(around.folder / "peer")
    try:
        _start_jobset(around, processes)
        _start_trainer(around, processes, its_trainer)
        yield
    finally:
        for controller in (JOBSET, its_trainer):
            around.controllers.pop(controller.name, None)
        processes.stop()


peer_with_raised_limits = partial(
    peer, its_trainer=TRAINER._replace(program=modules.trainer_with_raised_limits)
)
"""JobSet's own limits are as high already."""


def _start_jobset(around: World, processes: Processes) -> None:
    port, health, metrics = free_port(), free_port(), free_port()
    manifests = _install(
        around, downloaded(modules.GO / "jobset", modules.JOBSET) / "config" / "default", port
    )
    [text] = [m["data"][JOBSET_CONFIG] for m in manifests if m["kind"] == "ConfigMap"]
    config = yaml.safe_load(text)
    config["webhook"] = {"port": port}
    config["leaderElection"]["resourceNamespace"] = JOBSET.namespace
    _start(
        around,
        processes,
        JOBSET,
        health,
        *(f"--config=/tmp/{JOBSET_CONFIG}", "--zap-log-level=2"),
        f"--metrics-bind-address=:{metrics}",
        files={JOBSET_CONFIG: config},
    )


def _start_trainer(around: World, processes: Processes, its_trainer: Controller) -> None:
    port, health = free_port(), free_port()
    shipped = downloaded(modules.GO / "trainer", modules.TRAINER) / "manifests"
    ours = around.folder / "manifests"
    shutil.copytree(shipped, ours, copy_function=shutil.copyfile)
    kustomization = ours / "overlays" / "manager" / "kustomization.yaml"
    lines = kustomization.read_text().splitlines()
    # As it says itself, where JobSet is there already.
    kept = [line for line in lines if "third-party/jobset" not in line]
    kustomization.write_text("\n".join(kept))
    _install(around, kustomization.parent, port)
    _start(around, processes, its_trainer, health, f"--webhook-server-port={port}", files={})
    runtime = shipped / "base" / "runtimes" / "torch_distributed.yaml"
    # Its own webhook has a say in it.
    processes.wait_until(
        f"{runtime.name} is taken",
        lambda: succeeds(around.cluster.kubeconfig, "apply", "-f", str(runtime)),
    )


def _install(around: World, kustomization: Path, port: int) -> list[Object]:
    """Applies what they ship, with its webhooks at this port; returns all of it."""
    rendered = around.cluster.kubectl("kustomize", str(kustomization))
    # The CRDs are long: the parser in Python takes seconds for them.
    shipped = yaml.load_all(rendered, Loader=yaml.CSafeLoader)
    manifests = [m for m in shipped if m["kind"] != "Deployment"]
    for manifest in manifests:
        if manifest["kind"] == "Service":
            manifest["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        for webhook in manifest.get("webhooks", ()):
            webhook["clientConfig"]["service"]["port"] = port
    document = {"apiVersion": "v1", "kind": "List", "items": manifests}
    around.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    crds = [m["metadata"]["name"] for m in manifests if m["kind"] == "CustomResourceDefinition"]
    for crd in crds:
        wait_until(
            f"{crd} is served",
            partial(succeeds, around.cluster.kubeconfig, "get", crd, "-A"),
            seconds=60,
        )
    return manifests


def _start(
    around: World,
    processes: Processes,
    controller: Controller,
    health: int,
    *flags: str,
    files: dict[str, Any],
) -> None:
    """Starts a controller as its service account; returns when it says that it is ready.

    Args:
        around: Where it works.
        processes: To which it is added.
        controller: Which one.
        health: The port for its probes.
        flags: Its other flags.
        files: Documents in its /tmp, by name.
    """
    tmp = around.folder / "peer" / controller.name
    (tmp / CERTIFICATES).mkdir(parents=True)
    kubectl = partial(around.cluster.kubectl, "-n", controller.namespace)
    kubeconfig = kubeconfig_of(around.cluster, controller.namespace, controller.account)
    for name, document in {"kubeconfig": kubeconfig, **files}.items():
        (tmp / name).write_text(yaml.safe_dump(document))
    program = controller.program()
    processes.start(
        controller.name,
        *(*IN_OWN_TMP, MOUNT_AND_RUN, tmp),
        *(program, "--kubeconfig=/tmp/kubeconfig", f"--health-probe-bind-address=:{health}"),
        *flags,
    )

    def made() -> dict[str, str]:
        secret = json.loads(kubectl("get", "secret", controller.secret, "-o", "json"))
        found: dict[str, str] = secret.get("data", {})
        return found

    processes.wait_until(f"{controller.name} has made its certificates", lambda: bool(made()))
    for name, encoded in made().items():
        (tmp / CERTIFICATES / name).write_bytes(b64decode(encoded))
    processes.wait_until(f"{controller.name} is ready", lambda: _answers(health))
    found = processes.find(program.name)
    assert found is not None
    around.controllers[controller.name] = psutil.Process(found.pid)


def _answers(health: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{health}/readyz", timeout=10):
            return True
    except OSError:
        return False
