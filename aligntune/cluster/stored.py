"""Reading logs and curves: from the pods of a job, or from its storage by a pod made for it."""

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

from aligntune.api.exit_codes import ExitCode
from aligntune.cluster.client import Cluster, Object
from aligntune.cluster.errors import ClusterError
from aligntune.cluster.job import Job
from aligntune.cluster.logs import ContainerLog, InPod, OnStorage, Place, pods_of, runs
from aligntune.cluster.patience import Tell
from aligntune.cluster.reader import (
    CONTAINER,
    curve_command,
    follow_command,
    log_command,
    reader_pod,
)

ENDED = ("Succeeded", "Failed")
READ_SECONDS = 180
"""Longest wait for the reader to have read. 180: most of it is its start; the image is usually on
the nodes already."""


def read(
    cluster: Cluster, job: Job, command: Sequence[str], image: str | None, tell: Tell
) -> Iterator[str]:
    """The lines that a command prints in a pod made for it, which is deleted afterwards.

    Args:
        cluster: Where.
        job: Whose storage.
        command: The command.
        image: Of the pod; None: the job's own.
        tell: Told of the pod.

    Raises:
        ClusterError: The pod cannot be made, does not start, or finds nothing.
    """
    if job.claim is None:
        raise ClusterError(
            f"the storage of {job.name} is ephemeral, and is gone with its pod", ExitCode.NOT_FOUND
        )
    image = image or job.image
    if not image:
        raise ClusterError(
            f"which image {job.name} ran with is not known: name one that has a shell and a user"
            " other than root, with --image",
            ExitCode.BAD_CONFIG,
        )
    pod = cluster.create_pod(reader_pod(job, job.claim, image, command))
    tell(f"pod {pod} reads claim {job.claim}, and is deleted then")
    try:
        phase = _wait_for(cluster.pod_changes(tell, pod), pod, ENDED, READ_SECONDS)
        line = ""
        for line in cluster.follow_log(tell, pod, container=CONTAINER):
            yield line
        if phase == "Failed":
            raise ClusterError(
                f"pod {pod} finds nothing to read in claim {job.claim} ({line})", ExitCode.NOT_FOUND
            )
    finally:
        cluster.delete_pod(pod)


def read_curves(cluster: Cluster, job: Job, image: str | None, tell: Tell) -> list[str]:
    """The lines of the files with the numbers of each step; errors as `read`."""
    command = curve_command(job)
    pod = pods_of(job, job.status.attempts.current, cluster.pods(job.name)).get(0)
    if pod is not None and runs(pod):
        return list(cluster.run_in(pod["metadata"]["name"], command))
    return list(read(cluster, job, command, image, tell))


def _wait_for(changes: Iterator[Object], name: str, phases: Sequence[str], seconds: int) -> str:
    """Which of these phases a pod has come to."""
    waits_for = "it is not scheduled"
    deadline = time.monotonic() + seconds
    for pod in changes:
        phase: str = pod["status"].get("phase", "")
        if phase in phases:
            return phase
        waits_for = _hindrance(pod) or waits_for
        if time.monotonic() > deadline:
            break
    raise ClusterError(
        f"pod {name} is not {' or '.join(phases)} after {seconds} s ({waits_for}): see that its"
        " claim can be mounted and its image pulled, or name another with --image"
    )


def _hindrance(pod: Object) -> str:
    """What a pod waits for, in the words of the kubelet or the scheduler."""
    for status in pod["status"].get("containerStatuses", ()):
        waiting = status["state"].get("waiting", {})
        return f"{waiting.get('reason', '')}: {waiting.get('message', '')}".strip(": ")
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", ""))
    return ""


def lines(
    cluster: Cluster,
    job: Job,
    attempt: int,
    found: Sequence[Place],
    *,
    tail: int | None,
    follow: bool,
    image: str | None,
    tell: Tell,
) -> Iterator[str]:
    """The lines of all logs: one place after the other, or as they come if they are followed."""
    prefixed = job.runtime.world_size > 1

    def of(place: Place) -> Iterator[str]:
        match place:
            case ContainerLog(pod):
                if follow:
                    return cluster.follow_log(tell, pod, tail=tail)
                return cluster.log(pod, tail=tail)
            case InPod(pod, ranks):
                if follow:
                    command = partial(follow_command, job, attempt, ranks, tail)
                    return cluster.follow_in(tell, pod, command)
                read_once = log_command(job, attempt, ranks, tail=tail, prefixed=prefixed)
                return cluster.run_in(pod, read_once)
            case OnStorage(ranks):
                read_once = log_command(job, attempt, ranks, tail=tail, prefixed=prefixed)
                return read(cluster, job, read_once, image, tell)

    if not follow:
        return itertools.chain.from_iterable(map(of, found))
    stored = [of(place) for place in found if isinstance(place, OnStorage)]
    growing = [of(place) for place in found if not isinstance(place, OnStorage)]
    return itertools.chain(*stored, merged(growing))


def merged(sources: Sequence[Iterator[str]]) -> Iterator[str]:
    """What several sources give, as it comes; ends with the last, or with the first error."""
    given: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

    def drain(source: Iterator[str]) -> None:
        try:
            for line in source:
                given.put(line)
        except BaseException as error:  # noqa: BLE001 - raised where the lines are read
            given.put(error)
        else:
            given.put(None)

    for source in sources:
        threading.Thread(target=drain, args=(source,), daemon=True).start()
    left = len(sources)
    while left:
        match given.get():
            case None:
                left -= 1
            case BaseException() as error:
                raise error
            case line:
                yield line
