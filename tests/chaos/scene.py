"""A job that trains on the kubelet, and what can be done to it and around it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from aligntune.api.labels import COMPLETION_INDEX, JOB_NAME
from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.e2e.conftest import Tenant
from tests.hub.hub import Hub

FIND_RANK = """
import os, signal, sys
def cmdline(pid):
    try:
        return open(f'/proc/{pid}/cmdline', 'rb').read()
    except OSError:
        return b''
rank = next(pid for pid in filter(str.isdecimal, os.listdir('/proc'))
            if int(pid) != os.getpid() and b'aligntune.pod.rank' in cmdline(pid))
"""


class Scene(NamedTuple):
    """A job that trains, and where."""

    cluster: Cluster
    tenant: Tenant
    hub: Hub
    name: str

    @property
    def pod(self) -> str:
        """Its newest pod; empty if there is none."""
        return self.tenant.pod(self.name).rpartition("\n")[2].removeprefix("pod/")

    def pod_of(self, index: int) -> str:
        """The pod of a gang of that index."""
        selector = f"{JOB_NAME}={self.name},{COMPLETION_INDEX}={index}"
        return self.tenant("get", "pods", "-l", selector, "-o", "name").strip().removeprefix("pod/")

    @property
    def job(self) -> str:
        """The Job of its newest attempt; empty if there is none."""
        found = self.tenant("get", "jobs", "-l", f"{JOB_NAME}={self.name}", "-o", "name")
        return found.strip().rpartition("\n")[2]

    @property
    def folder(self) -> Path:
        """Its output folder, on this machine."""
        return self.tenant.models / self.name

    def in_rank(self, code: str, pod: str = "") -> None:
        """Runs Python in the trainer's container, which may be the end of it."""
        command = (
            "exec",
            pod or self.pod,
            "-c",
            "trainer",
            "--",
            "python3",
            "-c",
            FIND_RANK + code,
        )
        with suppress(subprocess.CalledProcessError):
            self.tenant(*command)


def rank_process(scene: Scene) -> psutil.Process:
    """The rank as this machine sees it."""
    uid = scene.tenant("get", "pod", scene.pod, "-o", "jsonpath={.metadata.uid}")

    def is_it(process: psutil.Process) -> bool:
        try:
            place = Path(f"/proc/{process.pid}/cgroup").read_text()
            return uid in place and "aligntune.pod.rank" in process.cmdline()
        except (OSError, psutil.Error):
            return False

    return next(filter(is_it, psutil.process_iter()))


@contextmanager
def kubelet_gone(cluster: Cluster) -> Iterator[None]:
    """Kills the kubelet, whose containers run on, and starts it again at the end."""
    process = cluster.process("kubelet")
    command = process.cmdline()
    process.kill()
    try:
        yield
    finally:
        cluster.start_inside(*command)
        wait_until("the node is back", cluster.node_is_ready, 120)


def make_small_disk(cluster: Cluster, folder: Path, size: str) -> None:
    """A file system of its own in a folder of the volume.

    It is mounted in the cluster's mount namespace, and goes with it.
    """
    folder.mkdir()
    cluster.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "chaos", folder)
