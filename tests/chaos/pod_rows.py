"""The fault table of pods that train for real, on a kubelet.

Each row lets its fault loose on a job of 16 steps that has done 5 and saves a checkpoint every
other step. Whatever happens, each step is made once in its loss curve.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.e2e.conftest import Tenant

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
FILL_MEMORY = """
open(f'/proc/{rank}/oom_score_adj', 'w').write('1000')
held = []
while os.path.exists(f'/proc/{rank}'):
    held.append(bytearray(50_000_000))
"""
"""With the kernel told to prefer the rank to whoever fills the memory."""


class Scene(NamedTuple):
    """A job that trains, and where."""

    cluster: Cluster
    tenant: Tenant
    name: str

    @property
    def pod(self) -> str:
        """Its newest pod; empty if there is none."""
        return self.tenant.pod(self.name).rpartition("\n")[2].removeprefix("pod/")

    @property
    def folder(self) -> Path:
        """Its output folder, on this machine."""
        return self.tenant.models / self.name

    def in_rank(self, code: str) -> None:
        """Runs Python in the trainer's container, which may be the end of it."""
        command = ("exec", self.pod, "-c", "trainer", "--", "python3", "-c", FIND_RANK + code)
        with suppress(subprocess.CalledProcessError):
            self.tenant(*command)


class PodRow(NamedTuple):
    """A fault, and what becomes of the job."""

    name: str
    fault: Callable[[Scene], None]
    what: str
    """In words, for docs/chaos.md."""
    reasons: tuple[str, ...]
    """Why the first attempt may have ended."""
    recovers: bool = True
    memory: str = ""
    """Limit of the trainer's container."""
    disk: str = ""
    """Size of the volume."""


def deleted(scene: Scene) -> None:
    scene.tenant("delete", "pod", scene.pod, "--wait=false")


def deleted_by_force(scene: Scene) -> None:
    scene.tenant("delete", "pod", scene.pod, "--grace-period=0", "--force")


def rank_out_of_memory(scene: Scene) -> None:
    scene.in_rank(FILL_MEMORY)


def rank_terminated(scene: Scene) -> None:
    scene.in_rank("os.kill(int(rank), signal.SIGTERM)")


def checkpoint_truncated(scene: Scene) -> None:
    deleted_by_force(scene)
    complete = [path.parent for path in scene.folder.glob("checkpoint-*/complete.json")]
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    weights = newest / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def node_lost(scene: Scene) -> None:
    pod = scene.pod
    with kubelet_gone(scene.cluster):
        scene.cluster.kubectl("delete", "node", scene.cluster.node)
        wait_until("its pod is forgotten", lambda: pod not in scene.tenant.pod(scene.name), 240)


def nothing(_: Scene) -> None:
    """The disk is too small from the start."""


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


ROWS = (
    PodRow("pod-deleted", deleted, "its pod is deleted", ("Preempted",)),
    PodRow(
        "pod-force-deleted",
        deleted_by_force,
        "its pod is deleted by force",
        ("NodeLost", "Preempted", "Unknown"),
    ),
    PodRow("rank-terminated", rank_terminated, "a rank gets SIGTERM", ("Preempted",)),
    PodRow(
        "rank-out-of-memory",
        rank_out_of_memory,
        "a rank is killed for the container's memory",
        ("OutOfMemory",),
        memory="3Gi",
    ),
    PodRow(
        "checkpoint-truncated",
        checkpoint_truncated,
        "its pod is deleted by force, and half of its newest checkpoint is lost",
        ("NodeLost", "Preempted", "Unknown"),
    ),
    PodRow(
        "node-lost",
        node_lost,
        "the kubelet stops, the Node is deleted, and the kubelet comes back",
        ("NodeLost", "Preempted"),
    ),
    PodRow(
        "disk-full",
        nothing,
        "the volume is too small for a checkpoint",
        ("DiskFull",),
        recovers=False,
        disk="40m",
    ),
)
