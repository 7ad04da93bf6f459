"""The fault table of pods that train for real, on a kubelet.

Each row lets its fault loose on a job of 16 steps that has done 5 and saves a checkpoint every
other step. Whatever happens, each step is made once in its loss curve.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil

from aligntune.api.labels import JOB_NAME
from tests.chaos.scene import Scene, kubelet_gone, rank_process
from tests.cluster.processes import wait_until
from tests.e2e.test_interruptions import wait_for_step
from tests.hub.hub import OWNER

FILL_MEMORY = """
open(f'/proc/{victim}/oom_score_adj', 'w').write('1000')
held = []
while os.path.exists(f'/proc/{victim}'):
    held.append(bytearray(50_000_000))
    if len(held) == 4:
        if os.fork():
            os.wait()
        else:
            held.clear()
"""
"""With the kernel told to prefer a victim to whoever fills the memory: it looks at size, too, so
that no process takes much of it."""
STOP_RANK = "os.kill(int(rank), signal.SIGSTOP)"
SCRATCH = "/scratch"
SOON_SECONDS = 300
"""How long one event may take on a busy machine."""
STALL_SECONDS = 300
"""Steps take one second; on a busy machine one took two minutes, which is no hang."""
LITTLE_MEMORY = {"runtime": {"resources": {"limits": {"memory": "3Gi"}}}}
GANG_THAT_HANGS = {
    "runtime": {"nodes": 2},
    "policy": {"stallTimeoutSeconds": STALL_SECONDS, "terminationGracePeriodSeconds": 20},
}
COUNTED = ("HubPushFailed", "OutOfMemory", "Stalled", "Unknown")
"""Reasons that cost a restart."""
FREE = ("NodeLost", "Preempted")
"""Reasons that count as a preemption."""
TOKEN_SECRET = "hub"
PUSHED = f"{OWNER}/pushed"


class PodRow(NamedTuple):
    """A fault, and what becomes of the job."""

    name: str
    fault: Callable[[Scene], None]
    what: str
    """In words, for docs/chaos.md."""
    reasons: tuple[str, ...]
    """Why the first attempt may have ended."""
    recovers: bool = True
    attempts: int = 2
    """How many a job makes that recovers."""
    at_step: int = 5
    """When the fault comes. 0: as soon as the job is applied."""
    save_every: int = 2
    spec: Mapping[str, Any] = MappingProxyType({})
    """What differs in the manifest."""
    alone: bool = False
    """Whether it disturbs others."""
    queue: str = ""
    """The LocalQueue whose job it is."""
    disk: str = ""
    """Size of the volume."""
    scratch: str = ""
    """Limit of an emptyDir at SCRATCH."""


def deleted(scene: Scene) -> None:
    scene.tenant("delete", "pod", scene.pod, "--wait=false")


def deleted_by_force(scene: Scene) -> None:
    scene.tenant("delete", "pod", scene.pod, "--grace-period=0", "--force")


def rank_out_of_memory(scene: Scene) -> None:
    scene.in_rank(f"victim = rank{FILL_MEMORY}")


def container_out_of_memory(scene: Scene) -> None:
    """With the launcher goes all that it has started."""
    scene.in_rank(f"victim = 1{FILL_MEMORY}")


def rank_terminated(scene: Scene) -> None:
    scene.in_rank("os.kill(int(rank), signal.SIGTERM)")


def checkpoint_truncated(scene: Scene) -> None:
    deleted_by_force(scene)
    newest = max(complete_checkpoints(scene), key=lambda path: int(path.name.rpartition("-")[2]))
    weights = newest / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def node_lost(scene: Scene) -> None:
    pod = scene.pod
    with kubelet_gone(scene.cluster):
        scene.cluster.kubectl("delete", "node", scene.cluster.node)
        wait_until("its pod is forgotten", lambda: pod not in scene.tenant.pod(scene.name), 240)


def rank_0_hung(scene: Scene) -> None:
    until_checkpoint(scene)
    scene.in_rank(STOP_RANK, scene.pod_of(0))
    log = scene.folder / "attempt-1" / "rank-1.log"
    wait_until(
        "the other pod's rank tells where it waits",
        lambda: "most recent call first" in log.read_text(),
        STALL_SECONDS + SOON_SECONDS,
    )


def peer_hung(scene: Scene) -> None:
    until_checkpoint(scene)
    scene.in_rank(STOP_RANK, scene.pod_of(1))


def until_checkpoint(scene: Scene) -> None:
    """Until the next one is complete: whoever is stopped in the middle of one does not hang."""
    known = complete_checkpoints(scene)
    wait_until("it saves", lambda: bool(complete_checkpoints(scene) - known), SOON_SECONDS)


def complete_checkpoints(scene: Scene) -> set[Path]:
    return {path.parent for path in scene.folder.glob("checkpoint-*/complete.json")}


def scratch_overfilled(scene: Scene) -> None:
    """With the rank stopped: the kubelet measures once a minute, and the run is over by then."""
    fill = f"open('{SCRATCH}/file', 'wb').write(bytes(40 * 10**6));"
    scene.in_rank(fill + STOP_RANK)


def push_fails(scene: Scene) -> None:
    scene.hub.full = True

    def failed() -> bool:
        attempts = scene.tenant.status(scene.name).get("attempts", {}).get("history", ())
        return any(attempt.get("reason") for attempt in attempts)

    wait_until("the first attempt has ended", failed, 3 * SOON_SECONDS)
    scene.hub.full = False

    def pushed() -> bool:
        return "adapter_model.safetensors" in scene.hub.repos["model", PUSHED].at("main").files

    assert not pushed()
    wait_until("the model is on the hub", pushed, 3 * SOON_SECONDS)


def suspended_while_starting(scene: Scene) -> None:
    running = ("--field-selector=status.phase=Running", "-o", "name")
    label = f"{JOB_NAME}={scene.name}"
    wait_until(
        "its pod runs",
        lambda: bool(scene.tenant("get", "pods", "-l", label, *running)),
        SOON_SECONDS,
    )
    assert scene.tenant.status(scene.name).get("progress", {}).get("step", 0) == 0
    scene.tenant.suspend(scene.name)
    resume_once_suspended(scene)


def suspended_while_saving(scene: Scene) -> None:
    with standing_still_while_saving(scene):
        pod = scene.pod
        scene.tenant.suspend(scene.name)
        wait_until_told_to_end(scene, pod)
    resume_once_suspended(scene)


def evicted_by_its_queue_while_saving(scene: Scene) -> None:
    """Admitted again while the evicted pod is still at its checkpoint: the folder is its own.

    Kueue itself is not here: its writes to a Job, as its contract has them, are played.
    """

    def admit(*, admitted: bool) -> None:
        patch = json.dumps({"spec": {"suspend": not admitted}})
        scene.tenant("patch", scene.job, "--type=merge", "-p", patch)

    wait_until("it is queued", lambda: bool(scene.job), SOON_SECONDS)
    admit(admitted=True)
    wait_for_step(scene.tenant, scene.name, 5)
    with standing_still_while_saving(scene):
        pod = scene.pod
        admit(admitted=False)
        wait_until_told_to_end(scene, pod)
        admit(admitted=True)


def wait_until_told_to_end(scene: Scene, pod: str) -> None:
    asked = ("get", "pod", pod, "-o", "jsonpath={.metadata.deletionTimestamp}")
    wait_until("its pod is told to end", lambda: bool(scene.tenant(*asked)), SOON_SECONDS)


def resume_once_suspended(scene: Scene) -> None:
    atj = f"atj/{scene.name}"
    scene.tenant("wait", "--for=condition=Suspended", atj, f"--timeout={SOON_SECONDS}s")
    scene.tenant.suspend(scene.name, suspend=False)


@contextmanager
def standing_still_while_saving(scene: Scene) -> Iterator[None]:
    """The rank stands still in the middle of a checkpoint."""
    rank = rank_process(scene)
    wait_until("it saves", lambda: stands_still_while_saving(scene, rank), SOON_SECONDS)
    try:
        yield
    finally:
        rank.resume()


def stands_still_while_saving(scene: Scene, rank: psutil.Process) -> bool:
    rank.suspend()
    if any(scene.folder.glob(".unfinished-*/checkpoint-*")):
        return True
    rank.resume()
    return False


def node_drained(scene: Scene) -> None:
    node, only = scene.cluster.node, f"--pod-selector={JOB_NAME}={scene.name}"
    try:
        scene.cluster.kubectl("drain", node, only, "--delete-emptydir-data", "--timeout=180s")
    finally:
        scene.cluster.kubectl("uncordon", node)


def nothing(_: Scene) -> None:
    """The disk is too small from the start."""


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
        spec=LITTLE_MEMORY,
    ),
    PodRow(
        "container-out-of-memory",
        container_out_of_memory,
        "the launcher, and with it the container, is killed for its memory",
        ("OutOfMemory",),
        spec=LITTLE_MEMORY,
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
        alone=True,
    ),
    PodRow(
        "disk-full",
        nothing,
        "the volume is too small for a checkpoint",
        ("DiskFull",),
        recovers=False,
        at_step=0,
        disk="40m",
    ),
    PodRow(
        "rank-0-hung",
        rank_0_hung,
        "of two pods the first's rank is stopped (SIGSTOP), while its pod goes on answering",
        ("Stalled",),
        spec=GANG_THAT_HANGS,
    ),
    PodRow(
        "peer-hung",
        peer_hung,
        "of two pods the second's rank is stopped (SIGSTOP), and rank 0 hangs in a collective",
        ("Stalled",),
        spec=GANG_THAT_HANGS,
    ),
    PodRow(
        "scratch-overfilled",
        scratch_overfilled,
        "an emptyDir is filled beyond its limit, and the kubelet evicts the pod",
        ("DiskFull",),
        recovers=False,
        scratch="20M",
    ),
    PodRow(
        "push-fails",
        push_fails,
        "the hub takes no files when the model is to be pushed",
        ("HubPushFailed",),
        at_step=0,
        spec={
            "hub": {
                "tokenSecret": {"name": TOKEN_SECRET, "key": "token"},
                "push": {"repoId": PUSHED},
            }
        },
    ),
    PodRow(
        "suspended-starting",
        suspended_while_starting,
        "it is suspended while it loads its model, and resumed",
        ("Suspended",),
        at_step=0,
    ),
    PodRow(
        "suspended-saving",
        suspended_while_saving,
        "it is suspended in the middle of a checkpoint, and resumed",
        ("Suspended",),
        save_every=1,
    ),
    PodRow(
        "evicted-by-queue-saving",
        evicted_by_its_queue_while_saving,
        "its queue evicts it in the middle of a checkpoint, and at once admits it again",
        ("Succeeded",),
        attempts=1,
        at_step=0,
        save_every=1,
        queue="gpu",
    ),
    PodRow("node-drained", node_drained, "its node is drained", ("Preempted",), alone=True),
)
