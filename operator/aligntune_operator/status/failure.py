"""Why an attempt failed: the one cause behind exit codes, messages and conditions."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from aligntune.api.causes import RETRY, Cause, Retry
from aligntune.api.exit_codes import CAUSE_BY_EXIT_CODE, ExitCode
from aligntune.api.progress import Outcome
from aligntune.api.status import Failure
from aligntune.core.scrub import scrub
from aligntune_operator.observe import Explanation, JobState, PodState

SIGKILL_EXIT = 137
LONGEST_LOG = 4000
MOST_OBSTACLES = 3
"""Texts on why pods wait that are told: each pod of a large gang may have one of its own."""

OWN_DISK_USE = re.compile(
    r"Usage of EmptyDir volume|local ephemeral storage usage exceeds|exceeded its local ephemeral"
)
"""The kubelet's words for an eviction that the pod has brought on itself."""

SENTENCES = {
    Cause.OUT_OF_MEMORY: "the container needed more memory than its limit; raise"
    " spec.runtime.resources.limits.memory, or lower train.perDeviceBatchSize",
    Cause.NODE_LOST: "the pod's node is gone",
}

OBSTACLES: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (re.compile(r"ErrImage|ImagePull|InvalidImageName|ImageInspectError"), Cause.IMAGE_PULL_ERROR),
    (re.compile(r"exceeded quota"), Cause.QUOTA_EXCEEDED),
    (re.compile(r"FailedCreate.*(forbidden|denied)", re.DOTALL), Cause.ADMISSION_REFUSED),
    (re.compile(r"Unschedulable|FailedScheduling"), Cause.UNSCHEDULABLE),
    (re.compile(r"CreateContainerConfigError"), Cause.CONFIG_ERROR),
    (
        re.compile(r"FailedMount.*(secret|configmap) .*not found|FailedMount.*non-existent"),
        Cause.CONFIG_ERROR,
    ),
    (re.compile(r"FailedMount|FailedAttachVolume"), Cause.VOLUME_ERROR),
)
"""What keeps a pod from starting, by the words of the kubelet and the controllers."""

JOB_CONDITION_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


SYMPTOMS = (Cause.STALLED, Cause.UNKNOWN, Cause.NCCL_ERROR, Cause.PREEMPTED)
"""What a pod says of itself when its peer is gone, the most telling first: not the cause, if
anything else is known."""


def classify(job: JobState, pods: Iterable[PodState]) -> Failure:
    """The failure of an attempt, as its most telling witness has it."""
    return next(_witnesses(job, pods))


def _witnesses(job: JobState, pods: Iterable[PodState]) -> Iterator[Failure]:
    """What happened inside is said by the launcher's outcome, what happened to a pod by the kubelet
    and the controllers. What a pod has brought on itself comes before what was done to one; then
    come a queue that took the Job back, the symptoms of a lost peer, bare exit codes, and at last
    the Job's own condition, which outlives its pods.
    """
    pods = tuple(pods)
    ended = [pod for pod in pods if pod.exit_code not in (None, 0) or pod.phase == "Failed"]
    told = [(pod, pod.outcome) for pod in ended]
    inside = [_from_outcome(pod, outcome) for pod, outcome in told if outcome and outcome.reason]
    yield from (failure for failure in inside if failure.reason not in SYMPTOMS)
    if job.failed_reason == "DeadlineExceeded":
        yield deadline_exceeded()
    yield from (_from_pod(cause, pod) for pod in ended if (cause := _own_fault(pod)))
    # Its node may be gone, and its peers have failed before anybody could say that it has ended.
    yield from (_from_pod(cause, pod) for pod in pods if (cause := _disruption(pod)))
    if "DisruptionTarget" in job.failed_message:
        yield make_failure(Cause.PREEMPTED, job.failed_message)
    if _deleted_first(job, pods, ended):
        yield make_failure(Cause.PREEMPTED, "its pod was deleted from outside")
    if job.suspended:
        # Its pods are stopped: SIGKILL after a checkpoint that took too long, or before any start.
        yield make_failure(Cause.PREEMPTED, "its queue took back what it had let the job have")
    symptoms = [failure for failure in inside if failure.reason in SYMPTOMS]
    yield from sorted(symptoms, key=lambda failure: SYMPTOMS.index(failure.reason))
    for pod in ended:
        if pod.exit_code in CAUSE_BY_EXIT_CODE:
            yield _from_pod(CAUSE_BY_EXIT_CODE[pod.exit_code], pod)
    yield from (_from_pod(Cause.UNKNOWN, pod) for pod in ended)
    yield _from_condition(job)


def deadline_exceeded() -> Failure:
    """All attempts together held pods for as long as they may."""
    return make_failure(
        Cause.DEADLINE_EXCEEDED,
        "the job ran longer than spec.policy.activeDeadlineSeconds allows; raise it, and apply the"
        " job under another name",
    )


def not_started(
    pods: Sequence[PodState], explanation: Explanation | None, began: datetime, now: datetime
) -> Failure:
    """The failure of an attempt whose pods did not all run within `policy.startTimeoutSeconds`.

    Where nothing is in the way any more, but pods spent most of that time without a node, it is
    that which kept them.

    Args:
        pods: Those of the attempt.
        explanation: What is known of its Events.
        began: When the time began.
        now: When it is over.
    """
    said = "; ".join(_obstacles(pods, explanation))
    cause = next((cause for sign, cause in OBSTACLES if sign.search(said)), Cause.UNKNOWN)
    detail = obstacle(pods, explanation) or "nothing is known to be in the way"
    placed = max((pod.scheduled_at for pod in pods if pod.scheduled_at), default=began)
    if cause == Cause.UNKNOWN and placed - began > now - placed:
        cause = Cause.UNSCHEDULABLE
        waited = (placed - began).total_seconds()
        detail = f"the last pod to be given a node waited {waited:.0f} s for it"
    return make_failure(
        cause, f"not every pod ran within spec.policy.startTimeoutSeconds: {detail}"
    )


def obstacle(pods: Iterable[PodState], explanation: Explanation | None) -> str:
    """What keeps pods from running, in the first of the words for it; empty if none are known."""
    said = _obstacles(pods, explanation)
    others = [f"and {len(said) - MOST_OBSTACLES} more"] if len(said) > MOST_OBSTACLES else []
    return "; ".join([*said[:MOST_OBSTACLES], *others])


def _obstacles(pods: Iterable[PodState], explanation: Explanation | None) -> list[str]:
    """The words of pods that wait, and of their Job's and their Events, each once."""
    waiting = {pod.waiting for pod in pods if pod.waiting}
    if explanation is not None and explanation.message:
        waiting.add(explanation.message)
    return sorted(waiting)


def _own_fault(pod: PodState) -> Cause | None:
    if OWN_DISK_USE.search(pod.evicted):
        return Cause.DISK_FULL
    return Cause.OUT_OF_MEMORY if pod.terminated_reason == "OOMKilled" else None


def _disruption(pod: PodState) -> Cause | None:
    if pod.disrupted == "DeletionByPodGC":
        return Cause.NODE_LOST
    return Cause.PREEMPTED if pod.disrupted else None


def _deleted_first(job: JobState, pods: Sequence[PodState], ended: Iterable[PodState]) -> bool:
    """Whether the Job failed for a pod that somebody had deleted.

    A pod that fails by itself is not deleted, and with an exit code of ours it fails the Job by a
    rule, not by the backoff limit.
    """
    if job.failed_reason != "BackoffLimitExceeded":
        return False
    deleted = [pod for pod in pods if pod.lost_at is not None]
    by_itself = [
        pod for pod in ended if pod.lost_at is None and pod.exit_code not in tuple(ExitCode)
    ]
    return bool(deleted or not pods) and not by_itself


def _from_outcome(pod: PodState, outcome: Outcome) -> Failure:
    cause = outcome.reason or Cause.UNKNOWN
    return make_failure(cause, outcome.message, pod.name, outcome.exit_code, outcome.log_tail)


def _from_pod(cause: Cause, pod: PodState) -> Failure:
    """Without an outcome the termination message holds the end of the log."""
    log_tail = "" if pod.outcome else pod.message
    return make_failure(cause, _sentence(cause, pod), pod.name, pod.exit_code, log_tail)


def _from_condition(job: JobState) -> Failure:
    """What is left when every pod is gone: the Job's own words."""
    found = JOB_CONDITION_EXIT_CODE.search(job.failed_message)
    code = int(found[1]) if found else None
    cause = Cause.UNKNOWN if code is None else CAUSE_BY_EXIT_CODE.get(code, Cause.UNKNOWN)
    return make_failure(
        cause, job.failed_message or "its pods are gone, and said nothing", None, code
    )


def _sentence(cause: Cause, pod: PodState) -> str:
    if cause in SENTENCES:
        return SENTENCES[cause]
    if cause == Cause.DISK_FULL:
        return f"the pod was evicted for its own disk use: {pod.evicted}"
    if cause == Cause.PREEMPTED:
        return f"the pod was stopped from outside ({pod.disrupted or 'SIGTERM'})"
    if pod.exit_code == SIGKILL_EXIT:
        return "the container was killed (SIGKILL), and not for its memory limit"
    if pod.exit_code is None:
        return pod.message or "the pod failed before its container ran"
    return f"the trainer ended with exit code {pod.exit_code}; its last log lines follow"


def make_failure(
    cause: Cause,
    message: str,
    pod: str | None = None,
    exit_code: int | None = None,
    log_tail: str = "",
) -> Failure:
    """A failure: its texts as long as a status may hold, and scrubbed.

    A launcher that was killed has scrubbed nothing: the kubelet tells the end of the raw log then.
    """
    return Failure(
        reason=cause,
        message=scrub(message)[:LONGEST_LOG],
        pod=pod,
        exit_code=exit_code,
        retryable=RETRY[cause] is not Retry.NEVER,
        log_tail=scrub(log_tail)[-LONGEST_LOG:],
    )
