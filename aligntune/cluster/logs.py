"""Where the log of each rank is, and which lines are new: decisions, without asking anybody."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aligntune.api.exit_codes import ExitCode
from aligntune.api.labels import COMPLETION_INDEX
from aligntune.api.names import job_name
from aligntune.cluster.errors import ClusterError
from aligntune.cluster.job import Job

STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\S+) (.*)", re.DOTALL)
"""A line behind the time at which it was written; what the kubelet says itself has none."""
NUMBERED = re.compile(r"\[rank (\d+)\] (\d+)\+(\d+):(.*)", re.DOTALL)
"""A line of a rank's file, behind the line at which reading began and its number since."""


class ContainerLog(NamedTuple):
    """The log of a pod's container: the launcher, and the first rank of that pod."""

    pod: str


class InPod(NamedTuple):
    """Files of other ranks, in a pod that runs."""

    pod: str
    ranks: tuple[int, ...]


class OnStorage(NamedTuple):
    """Files of ranks whose pod is gone or has ended."""

    ranks: tuple[int, ...]


Place = ContainerLog | InPod | OnStorage


def attempt_of(job: Job, wanted: int | None, *, previous: bool) -> int:
    """Which attempt is meant.

    Raises:
        ClusterError: There is no such attempt.
    """
    newest = job.status.attempts.current
    attempt = newest - 1 if previous else newest if wanted is None else wanted
    if newest == 0:
        raise ClusterError(
            f"{job.name} has had no attempt yet (it is {job.status.phase}):"
            f" `aligntune status {job.name}` says why",
            ExitCode.NOT_FOUND,
        )
    if not 1 <= attempt <= newest:
        raise ClusterError(
            f"{job.name} has had {newest} attempt{'s' if newest > 1 else ''}, and no number"
            f" {attempt}: name one of them with --attempt",
            ExitCode.NOT_FOUND,
        )
    return attempt


def pods_of(
    job: Job, attempt: int, pods: Sequence[Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """The newest pod at each index of an attempt's gang; not those of a job of the same name."""
    owner = job_name(job.name, job.uid, attempt)
    ours = [
        pod
        for pod in pods
        if any(
            owner == reference["name"] for reference in pod["metadata"].get("ownerReferences", ())
        )
    ]
    by_age = sorted(ours, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return {int(pod["metadata"]["labels"][COMPLETION_INDEX]): pod for pod in by_age}


def runs(pod: Mapping[str, Any]) -> bool:
    """Whether commands can run in a pod."""
    phase: str = pod["status"].get("phase", "")
    return phase == "Running" and "deletionTimestamp" not in pod["metadata"]


def places(
    job: Job,
    ranks: Sequence[int],
    pods: Mapping[int, Mapping[str, Any]],
    *,
    from_storage: bool = False,
) -> list[Place]:
    """Where the logs of `ranks` are, in their order; of none: of all.

    Args:
        job: The job.
        ranks: The ranks that are asked for.
        pods: The attempt's pods that are there, by their index in the gang.
        from_storage: Take the files although pods are there.

    Raises:
        ClusterError: There is no such rank, or its log is gone.
    """
    runtime = job.runtime
    processes = runtime.processes
    every = range(runtime.world_size)
    for rank in ranks:
        if rank not in every:
            raise ClusterError(
                f"--rank {rank}: {job.name} has the ranks 0 to {every[-1]}", ExitCode.BAD_CONFIG
            )
    found: list[Place] = []
    stored: list[int] = []
    for node in range(runtime.nodes):
        first = node * processes
        wanted = [r for r in range(first, first + processes) if r in (ranks or every)]
        pod = None if from_storage else pods.get(node)
        if wanted and pod is not None and pod["status"].get("phase") == "Pending":
            raise ClusterError(
                f"pod {pod['metadata']['name']} has not started, so it has printed nothing:"
                f" `aligntune status {job.name}` says what it waits for"
            )
        if pod is not None and first in wanted:
            found.append(ContainerLog(pod["metadata"]["name"]))
            wanted.remove(first)
        if wanted and pod is not None and runs(pod):
            found.append(InPod(pod["metadata"]["name"], tuple(wanted)))
        else:
            stored += wanted
    if stored and job.claim is None:
        raise ClusterError(
            f"the logs of {_names(stored)} are gone with the pod: the storage of {job.name} is"
            f" ephemeral. `aligntune status {job.name}` shows the last lines of a failure",
            ExitCode.NOT_FOUND,
        )
    return [*found, OnStorage(tuple(stored))] if stored else found


def unseen(lines: Iterable[str], shown: str) -> Iterator[tuple[str, str]]:
    """The lines of a log that were written after those that were shown, each with its time.

    Args:
        lines: The log, each line behind its time.
        shown: When the last line that was shown was written; empty: none was.
    """
    written = shown
    for line in lines:
        stamped = STAMPED.fullmatch(line)
        if stamped is None:
            yield written, line
        elif stamped[1] > shown:
            written = stamped[1]
            yield written, stamped[2]


def unnumbered(
    lines: Iterable[str], shown: Mapping[int, int]
) -> Iterator[tuple[Mapping[int, int], str]]:
    """The lines of files, each with how many of every rank are shown with it.

    Args:
        lines: What follows in the files, each line behind its rank and number.
        shown: How many lines of each rank were shown before.
    """
    for line in lines:
        numbered = NUMBERED.fullmatch(line)
        if numbered is None:
            yield shown, line
        else:
            rank, first, number = map(int, numbered.groups()[:3])
            shown = {**shown, rank: first + number - 1}
            yield shown, f"[rank {rank}] {numbered[4]}"


def _names(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
