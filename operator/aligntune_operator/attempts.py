"""Attempts as the status remembers them, and whether and when one that failed is followed."""

import hashlib
import math
from datetime import datetime, timedelta
from itertools import pairwise

from aligntune.api.causes import RETRY, Cause, Retry
from aligntune.api.exit_codes import ExitCode
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.progress import Checkpoint, Progress
from aligntune.api.status import MAX_HISTORY, Attempt, Attempts, Failure
from aligntune_operator.observe import JobState, Observed
from aligntune_operator.status.failure import deadline_exceeded, make_failure

FIRST_BACKOFF = timedelta(seconds=10)
LONGEST_BACKOFF = timedelta(minutes=5)
JITTER = 0.2
"""Share by which a wait is longer at most: jobs that failed together do not return together."""

FREE_SETBACKS = 3
"""Attempts in a row without a step gained from which on free restarts are counted too."""

ROUNDING = 1
"""Seconds by which two times of the API server may be closer than they were."""

SUCCEEDED = "Succeeded"
SUSPENDED = "Suspended"


def newest(attempts: Attempts) -> Attempt | None:
    """The attempt that runs, or the last that did."""
    return attempts.history[-1] if attempts.history else None


def over(attempts: Attempts) -> bool:
    """Whether none is under way: the newest was seen to end, or there was none yet."""
    entry = newest(attempts)
    return entry is None or entry.end is not None


def add_attempt(
    attempts: Attempts,
    number: int,
    job: str,
    start: datetime,
    from_step: int,
    *,
    image: str | None = None,
) -> Attempts:
    """With an attempt whose Job was created."""
    entry = Attempt(attempt=number, job=job, image=image, from_step=from_step, start=start)
    return attempts.model_copy(
        update={
            "current": number,
            "next_start": None,
            "history": [*attempts.history, entry][-MAX_HISTORY:],
        }
    )


def update_newest(attempts: Attempts, **changes: object) -> Attempts:
    """With changes to the newest attempt."""
    *earlier, entry = attempts.history
    return attempts.model_copy(update={"history": [*earlier, entry.model_copy(update=changes)]})


def count_pod_time(attempts: Attempts, job: JobState, last_report: datetime | None) -> Attempts:
    """With the time counted that the newest attempt held pods until a queue took them.

    Args:
        attempts: As they were known.
        job: The Job of the newest attempt.
        last_report: When its pods were last heard of: they ran until then, where nobody saw that
            the queue took them and gave new ones.
    """
    since, start = attempts.active_since, job.let_go
    if since is not None and since < start:
        attempts = _count_until(attempts, min(last_report or since, start))
        attempts = attempts.model_copy(update={"active_since": start})
    if job.active_since is None:
        attempts = _count_until(attempts, job.suspended_since or start)
    return attempts.model_copy(update={"active_since": job.active_since})


def _count_until(attempts: Attempts, until: datetime) -> Attempts:
    """With the time since pods are held added to the sum."""
    held = until - (attempts.active_since or until)
    seconds = attempts.active_seconds + max(int(held.total_seconds()), 0)
    return attempts.model_copy(update={"active_seconds": seconds, "active_since": None})


def close_newest(
    attempts: Attempts, reason: str, end: datetime, failure: Failure | None
) -> Attempts:
    """With the newest attempt over."""
    pod, exit_code = None, None
    if failure is not None:
        pod, exit_code = failure.pod, failure.exit_code
    elif reason == SUCCEEDED:
        exit_code = int(ExitCode.DONE)
    closed = update_newest(attempts, reason=reason, end=end, exit_code=exit_code, pod=pod)
    return _count_until(closed, end)


def goodput(attempts: Attempts, progress: Progress | None) -> float | None:
    """Share of the time that pods were held which went into steps that count; None: none yet."""
    if progress is None or not progress.training_seconds:
        return None
    held = float(attempts.active_seconds)
    if attempts.active_since and progress.updated_at:
        held += max((progress.updated_at - attempts.active_since).total_seconds(), 0.0)
    return min(progress.training_seconds / held, 1.0) if held else None


def resume_step(spec: AlignTuneJobSpec, checkpoint: Checkpoint | None) -> int:
    """The step that the next attempt begins at."""
    lost = not durable(spec) or spec.method.checkpoint.resume == "never"
    return 0 if checkpoint is None or lost else checkpoint.step


def durable(spec: AlignTuneJobSpec) -> bool:
    """Whether checkpoints outlive their pod."""
    return spec.storage is not None and spec.storage.claim_name is not None


def setbacks(attempts: Attempts, resumes_at: int) -> int:
    """How many attempts in a row, up to the newest, gained no step that outlives them.

    One that was suspended ended as it was asked to, whatever it had gained by then.
    """
    tried = [entry for entry in attempts.history if entry.reason != SUSPENDED]
    steps = [entry.from_step for entry in tried] + [resumes_at]
    gains = [after > before for before, after in pairwise(steps)]
    return next((n for n, gained in enumerate(reversed(gains)) if gained), len(gains))


def follow(
    failure: Failure,
    attempts: Attempts,
    observed: Observed,
    checkpoint: Checkpoint | None,
    now: datetime,
) -> tuple[Attempts, Failure]:
    """The attempts after the newest failed, with `next_start` if another follows, and why not.

    A fault that the same input would bring again ends the job. Others count against
    `policy.maxRestarts`, but those that are nobody's fault only once several attempts in a row
    gained nothing.
    """
    spec = observed.spec
    # A Job keeps the deadline that it began with.
    if failure.reason == Cause.DEADLINE_EXCEEDED and spec and _left(attempts, spec) > ROUNDING:
        failure = make_failure(
            Cause.PREEMPTED, "spec.policy.activeDeadlineSeconds was changed under this attempt"
        )
        attempts = update_newest(attempts, reason=failure.reason)
    if spec is None or _retry(failure, spec) == Retry.NEVER:
        return attempts, failure.model_copy(update={"retryable": False})
    policy = spec.policy
    if _left(attempts, spec) <= 0:
        return attempts, deadline_exceeded()
    vain = setbacks(attempts, resume_step(spec, checkpoint))
    counted = _retry(failure, spec) == Retry.COUNTED or vain >= FREE_SETBACKS
    if counted and attempts.restarts >= policy.max_restarts:
        return attempts, _last_straw(failure, policy.max_restarts)
    divisor, failure = _halve(failure, attempts.batch_divisor, spec)
    kind = "restarts" if counted else "preemptions"
    wait = _backoff(max(vain, 1) if counted else vain, f"{observed.object.uid}/{attempts.current}")
    changes = {
        kind: getattr(attempts, kind) + 1,
        "next_start": (now + wait).replace(microsecond=0),
        "batch_divisor": divisor,
    }
    return attempts.model_copy(update=changes), failure


def _left(attempts: Attempts, spec: AlignTuneJobSpec) -> float:
    """Seconds for which attempts to come may hold pods."""
    deadline = spec.policy.active_deadline_seconds
    return math.inf if deadline is None else deadline - attempts.active_seconds


def _retry(failure: Failure, spec: AlignTuneJobSpec) -> Retry:
    """The class of a failure, which the policy may make final."""
    if failure.reason == Cause.STALLED and spec.policy.on_stall == "Fail":
        return Retry.NEVER
    return RETRY[failure.reason]


def _halve(failure: Failure, divisor: int, spec: AlignTuneJobSpec) -> tuple[int, Failure]:
    """The divisor of the next attempt's batch, and a failure that says what became of it."""
    if failure.reason != Cause.CUDA_OUT_OF_MEMORY or (
        spec.policy.on_cuda_out_of_memory != "HalveBatch"
    ):
        return divisor, failure
    left, odd = divmod(spec.method.train.per_device_batch_size, 2 * divisor)
    if odd:
        note = f"a batch of {left * 2 + odd // divisor} cannot be halved, so it stays as it is"
        halved = divisor
    else:
        note, halved = f"the next attempt takes {left} rows at a time", 2 * divisor
    return halved, failure.model_copy(update={"message": f"{failure.message} ({note})"})


def _last_straw(failure: Failure, restarts: int) -> Failure:
    """The last one; `retryable` stays, for a person who applies the job again."""
    if restarts == 0:
        return failure
    message = f"{failure.message} (all {restarts} restarts of spec.policy.maxRestarts are used up)"
    return failure.model_copy(update={"message": message})


def _backoff(waits: int, seed: str) -> timedelta:
    """Doubles with each wait in a row; the jitter is drawn from the attempt, so it stays."""
    if waits == 0:
        return timedelta()
    draw = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) / 2**32
    backoff: timedelta = min(FIRST_BACKOFF * 2 ** min(waits - 1, 16), LONGEST_BACKOFF)
    return backoff * (1 + JITTER * draw)
