"""A whole Kubernetes with one node, in namespaces of its own, for tests that run real pods."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.cluster import cgroups, images, node, packages
from tests.cluster.binaries import PACKAGES, binary
from tests.cluster.control_plane import kubectl, succeeds, wipe
from tests.cluster.network import Link
from tests.cluster.processes import Processes, wait_until


class Cluster:
    """A control plane and a node with containerd, kubelet, kube-proxy and DNS. Needs root.

    All of it lives in one set of namespaces, tied to one process; when that is killed, the host
    is as it was before. As a context manager it starts on entry and stops on exit.

    Args:
        state: Folder for everything the cluster writes; `start` wipes it. Not below /var or /run.
        outlive_parent: Whether the cluster goes on when the process that starts it ends.
    """

    node = node.NAME

    def __init__(self, state: Path, *, outlive_parent: bool = False) -> None:
        self.state = state.resolve()
        self.kubeconfig = self.state / "kubeconfig"
        self._link = Link(self.state)
        self._cgroup = node.cgroup(self.state)
        self._processes = Processes(self.state, outlive_parent=outlive_parent)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts from an empty state, over whatever an earlier run left.

        Returns when the node is ready and has the trainer image. The first call on a machine
        also builds the programs and images, which takes about eight minutes on two cores.
        """
        packages.require()
        for name in PACKAGES:
            binary(name)
        archives = [images.pause(), images.trainer()]
        self.stop()
        wipe(self.state)
        cgroups.create(self._cgroup)
        try:
            self._processes.start(
                "node",
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", sys.executable, "-m", "tests.cluster.node", self.state),
            )
            self._processes.wait_until(
                "the namespaces are there", lambda: self._first() is not None
            )
            self._link.attach(self._pid())
            self._processes.wait_until("the node has registered", self._has_node)
            for archive in archives:
                self.load_image(archive)
            self._processes.wait_until("the node is ready", self._node_is_ready)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills everything and leaves the state folder, so that logs can be read."""
        self._processes.stop()
        wait_until(f"interface {self._link.name} is gone", self._link.detached, seconds=30)
        cgroups.remove(self._cgroup)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; CalledProcessError carries its stderr when it fails."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def run(self, *command: str | Path) -> str:
        """What a command prints that runs in the cluster's network and mount namespaces."""
        inside = ["nsenter", "--target", str(self._pid()), "--mount", "--net", "--"]
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, check=True
        ).stdout

    def load_image(self, archive: Path) -> None:
        """Makes an image known to the node, from an archive as `docker save` writes it."""
        self.run("ctr", "--namespace", "k8s.io", "images", "import", archive)

    def advertise_gpus(self, count: int) -> None:
        """Has the node offer nvidia.com/gpu.

        A stand-in for hardware that a test machine lacks: the scheduler counts these GPUs as it
        does on a GPU node, and pods that ask for them start, but find no device.
        """
        patch = {
            "status": {part: {"nvidia.com/gpu": count} for part in ("capacity", "allocatable")}
        }
        self.kubectl("patch", "node", self.node, "--subresource=status", "-p", json.dumps(patch))

    def process(self, name: str) -> psutil.Process:
        """One of the cluster's programs, to suspend, resume or kill."""
        return next(process for process in self._processes.running() if process.name() == name)

    def _has_node(self) -> bool:
        return succeeds(self.kubeconfig, "get", "node", self.node)

    def _node_is_ready(self) -> bool:
        ready = ["wait", f"node/{self.node}", "--for=condition=Ready", "--timeout=1s"]
        return succeeds(self.kubeconfig, *ready)

    def _first(self) -> psutil.Process | None:
        """The namespaces' first process, if there is one."""
        for process in self._processes.running():
            if process.name() == "unshare":
                return next(iter(process.children()), None)
        return None

    def _pid(self) -> int:
        first = self._first()
        if first is None:
            raise RuntimeError(f"No cluster runs in {self.state}: start one.")
        return first.pid
