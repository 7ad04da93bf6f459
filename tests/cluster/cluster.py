"""A whole Kubernetes with one node, in namespaces of its own, for tests that run real pods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.cluster import cgroups, images, packages
from tests.cluster.binaries import PACKAGES, binary
from tests.cluster.control_plane import Kubernetes
from tests.cluster.kubectl import succeeds
from tests.cluster.network import POD_RANGE, UPLINK, Link
from tests.cluster.node import HIDDEN, NODE, cgroup
from tests.cluster.processes import wait_until


class Cluster(Kubernetes):
    """A control plane and a node with containerd, kubelet, kube-proxy and DNS. Needs root.

    All of it lives in one set of namespaces, tied to one process; when that is killed, the host
    is as it was before, but for empty control groups, which `stop` removes.
    """

    node = NODE

    def __init__(self, state: Path, *, outlive_parent: bool = False) -> None:
        super().__init__(state, outlive_parent=outlive_parent)
        self._link = Link(self.state)
        self._cgroup = cgroup(self.state)

    def start(self) -> None:
        """Like the base, and returns when the node is ready and has the images.

        The first call on a machine also builds the programs and images, which takes about eight
        minutes on two cores.
        """
        if os.geteuid() != 0:
            raise RuntimeError(
                "A node needs root: use sudo, or start only a control plane (--control-plane-only)."
            )
        if any(self.state.is_relative_to(folder) for folder in HIDDEN):
            raise RuntimeError(
                f"{self.state} is below {' or '.join(HIDDEN)}, which the node replaces by its "
                "own: name another folder with --state."
            )
        packages.require()
        for name in PACKAGES:
            binary(name)
        images.pause()
        images.trainers()
        images.operator()
        super().start()

    def stop(self) -> None:
        super().stop()
        self._link.detach()
        wait_until(f"interface {self._link.name} is gone", self._link.detached, seconds=30)
        cgroups.remove(self._cgroup)

    def run(self, *command: str | Path) -> str:
        """What a command prints that runs in the cluster's network and mount namespaces."""
        inside = ["nsenter", "--target", str(self._pid()), "--mount", "--net", "--"]
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, check=True
        ).stdout

    def start_inside(self, *command: str) -> None:
        """Starts a program anew that was killed, beside the others of the node."""
        pid = str(self._pid())
        inside = ["nsenter", "--target", pid, "--mount", "--net", "--pid", "--"]
        self._processes.start(Path(command[0]).name, *inside, *command)

    def expose_host(self) -> str:
        """Lets pods reach this machine; the address at which they find it."""
        to_host = ("-s", POD_RANGE, "-o", UPLINK, "-j", "MASQUERADE")
        self.run("iptables", "-t", "nat", "-A", "POSTROUTING", *to_host)
        return self._link.host_address

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

    def _start(self) -> None:
        cgroups.create(self._cgroup)
        self._processes.start(
            "node",
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-m", "tests.cluster.node", self.state),
        )
        self._processes.wait_until("the namespaces are there", lambda: bool(self._inside()))
        self._link.attach(self._pid())
        self._processes.wait_until("containerd answers", self._has_containerd)
        for archive in (images.pause(), *images.trainers(), images.operator()):
            self.load_image(archive)
        self._processes.wait_until("the node is ready", self.node_is_ready)

    def _has_containerd(self) -> bool:
        try:
            self.run("ctr", "version")
        except subprocess.CalledProcessError:
            return False
        return True

    def node_is_ready(self) -> bool:
        """Whether the node is there and takes pods."""
        ready = ["wait", f"node/{self.node}", "--for=condition=Ready", "--timeout=1s"]
        return succeeds(self.kubeconfig, *ready)

    def _inside(self) -> list[psutil.Process]:
        """The namespaces' first process, or nothing before they are there."""
        unshare = self._processes.find("unshare")
        return [] if unshare is None else unshare.children()

    def _pid(self) -> int:
        match self._inside():
            case [first]:
                return first.pid
        raise RuntimeError(f"No cluster runs in {self.state}: run `python -m tests.cluster up`.")
