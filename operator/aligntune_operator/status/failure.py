"""Why an attempt failed: the one cause behind exit codes, messages and conditions."""

import re
from collections.abc import Iterable

from aligntune.api.causes import RETRY, Cause, Retry
from aligntune.api.exit_codes import ExitCode
from aligntune.api.status import Failure
from aligntune_operator.observe import JobState, PodState

SIGKILL_EXIT = 137
LONGEST_LOG = 4000

BY_EXIT_CODE = {
    ExitCode.BAD_DATA: Cause.DATA_ERROR,
    ExitCode.NOT_FOUND: Cause.MODEL_NOT_FOUND,
    ExitCode.NOT_AUTHORISED: Cause.UNAUTHORIZED,
    ExitCode.BAD_CONFIG: Cause.CONFIG_ERROR,
    ExitCode.PREEMPTED: Cause.PREEMPTED,
}
"""Exit codes that stand for one cause; the others need the launcher's word."""

JOB_CONDITION_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


def classify(job: JobState, pods: Iterable[PodState]) -> Failure:
    """The failure of an attempt, from the most telling witness to the least.

    The launcher's outcome says what happened inside; without it the kubelet's reason, then the
    exit code, then the Job's own condition, which outlives its pods.
    """
    failed = [pod for pod in pods if pod.exit_code not in (None, 0) or pod.phase == "Failed"]
    told = [(pod, pod.outcome) for pod in failed]
    for pod, outcome in told:
        # Peers of the pod that failed are stopped, and say so; that is not the cause.
        if outcome and outcome.reason and outcome.reason != Cause.PREEMPTED:
            return _failure(
                outcome.reason, outcome.message, pod.name, outcome.exit_code, outcome.log_tail
            )
    if job.failed_reason == "DeadlineExceeded":
        return _failure(
            Cause.DEADLINE_EXCEEDED,
            "the job ran longer than spec.policy.activeDeadlineSeconds allows; raise it, and apply"
            " the job under another name",
        )
    for pod, outcome in told:
        cause = _cause_from_outside(pod)
        if cause is not None:
            message = outcome.message if outcome else _sentence(cause, pod)
            return _failure(cause, message, pod.name, pod.exit_code, _log_tail(pod))
    for pod, _ in told:
        return _failure(
            Cause.UNKNOWN, _sentence(Cause.UNKNOWN, pod), pod.name, pod.exit_code, _log_tail(pod)
        )
    return _from_condition(job)


def _cause_from_outside(pod: PodState) -> Cause | None:
    if pod.terminated_reason == "OOMKilled":
        return Cause.OUT_OF_MEMORY
    if pod.disrupted == "DeletionByPodGC":
        return Cause.NODE_LOST
    if pod.disrupted:
        return Cause.PREEMPTED
    if pod.exit_code is not None and pod.exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[ExitCode(pod.exit_code)]
    return None


def _from_condition(job: JobState) -> Failure:
    """What is left when every pod is gone: the Job's own words."""
    found = JOB_CONDITION_EXIT_CODE.search(job.failed_message)
    code = int(found[1]) if found else None
    cause = Cause.UNKNOWN
    if code in BY_EXIT_CODE:
        cause = BY_EXIT_CODE[ExitCode(code)]
    elif "DisruptionTarget" in job.failed_message:
        cause = Cause.PREEMPTED
    return _failure(cause, job.failed_message or "its pods are gone, and said nothing", None, code)


def _sentence(cause: Cause, pod: PodState) -> str:
    match cause:
        case Cause.OUT_OF_MEMORY:
            return (
                "the container needed more memory than its limit; raise"
                " spec.runtime.resources.limits.memory, or lower train.perDeviceBatchSize"
            )
        case Cause.NODE_LOST:
            return "the pod's node is gone"
        case Cause.PREEMPTED:
            return f"the pod was stopped from outside ({pod.disrupted or 'SIGTERM'})"
        case _ if pod.exit_code == SIGKILL_EXIT:
            return "the container was killed (SIGKILL), and not for its memory limit"
        case _ if pod.exit_code is None:
            return pod.message or "the pod failed before its container ran"
        case _:
            return f"the trainer ended with exit code {pod.exit_code}; its last log lines follow"


def _log_tail(pod: PodState) -> str:
    """Without an outcome the termination message holds the end of the log."""
    return "" if pod.outcome else pod.message


def _failure(
    cause: Cause,
    message: str,
    pod: str | None = None,
    exit_code: int | None = None,
    log_tail: str = "",
) -> Failure:
    return Failure(
        reason=cause,
        message=message[:LONGEST_LOG],
        pod=pod,
        exit_code=exit_code,
        retryable=RETRY[cause] is not Retry.NEVER,
        log_tail=log_tail[-LONGEST_LOG:],
    )
