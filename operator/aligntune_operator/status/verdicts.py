"""What each condition of an AlignTuneJob says, and why."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from aligntune.api import conditions as reasons
from aligntune.api.conditions import OVER, Condition, Phase, Reason
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.progress import Outcome
from aligntune.api.status import Attempts, Failure, TrainedModel
from aligntune_operator.attempts import durable
from aligntune_operator.clock import timestamp
from aligntune_operator.observe import Observed
from aligntune_operator.stages import waiting
from aligntune_operator.status.conditions import Verdict
from aligntune_operator.status.failure import obstacle

SILENCE_PATIENCE = timedelta(seconds=30)
"""How long an endpoint may be silent before a condition says so: one lost packet is no news."""

KEEPS_OUT: Mapping[str, Reason] = {
    "in use": reasons.IN_USE,
    "missing": reasons.MISSING,
    "too large": reasons.TOO_LARGE,
    "refused": reasons.REFUSED,
}
"""Hindrances for which a job that has not begun is not accepted."""


def verdicts(
    observed: Observed,
    phase: Phase,
    attempts: Attempts,
    failure: Failure | None,
    *,
    outcome: Outcome | None,
    model: TrainedModel | None,
    now: datetime,
) -> Mapping[Condition, Verdict]:
    """What each condition says in this phase.

    Args:
        observed: What was observed.
        phase: The phase that follows from it.
        attempts: The attempts, with what was seen of the newest.
        failure: Why the job or its last attempt has failed.
        outcome: The launcher's last word.
        model: What was trained, once the job has succeeded.
        now: The time.
    """
    over = phase in OVER
    end = _end_reason(observed, phase, failure, outcome, model)
    accepted = _accepted(observed)
    reconciling: Verdict
    stalled: Verdict
    refused = accepted[0] is False
    if refused:
        reconciling, stalled = (False, accepted[1]), (True, accepted[1])
    elif phase == Phase.FAILED:
        reconciling, stalled = (False, end), (True, end)
    else:
        reconciling = _reconciling(observed, phase, attempts, failure, now)
        stalled = (False, reasons.WORKING)
    too_large = _too_large(observed)
    return {
        Condition.ACCEPTED: accepted,
        Condition.RUNNING: _running(observed, phase),
        Condition.SUSPENDED: _suspended(phase),
        Condition.RESUMABLE: _resumable(observed),
        Condition.PROGRESS_UNKNOWN: _progress_unknown(observed, phase),
        **({Condition.GPU_TOO_SMALL: (True, too_large)} if too_large else {}),
        Condition.COMPLETE: (phase == Phase.SUCCEEDED, end),
        Condition.FAILED: (phase == Phase.FAILED, end),
        Condition.FINISHED: (over, end),
        Condition.RECONCILING: reconciling,
        Condition.STALLED: stalled,
    }


def _accepted(observed: Observed) -> Verdict:
    if observed.spec is None:
        return False, reasons.INVALID_SPEC(errors="; ".join(observed.errors))
    if observed.unsupported:
        return False, reasons.UNSUPPORTED(error=observed.unsupported)
    hindrance = observed.hindrance
    # What trains may be changed while this is False, so only before the first attempt.
    if hindrance and hindrance.kind in KEEPS_OUT and not observed.object.status.attempts.current:
        return False, KEEPS_OUT[hindrance.kind](message=hindrance.message)
    return True, reasons.VALID(backend=observed.spec.backend, task=observed.spec.task)


def _reconciling(
    observed: Observed,
    phase: Phase,
    attempts: Attempts,
    failure: Failure | None,
    now: datetime,
) -> Verdict:
    job, hindrance = observed.job, observed.hindrance
    gone = job is None and phase == Phase.RUNNING
    if gone or (job is not None and job.deleting and not job.over):
        return True, reasons.STOPPING
    if phase in (Phase.PENDING, Phase.RESTARTING) and hindrance is not None:
        return True, reasons.HINDERED(error=hindrance.message)
    if phase == Phase.PENDING and observed.object.from_jobs:
        return True, reasons.WAITING(sentences=waiting(observed))
    due = attempts.next_start is None or attempts.next_start <= now
    if phase in (Phase.PENDING, Phase.RESTARTING) and due and (writer := _writer(observed, now)):
        return True, reasons.AWAITING_PODS(writer=writer)
    if phase == Phase.RESTARTING and failure is not None and attempts.next_start is not None:
        return True, reasons.RESTARTING(
            number=attempts.current,
            cause=failure.reason,
            error=failure.message,
            start=timestamp(attempts.next_start),
        )
    settled = phase in (Phase.SUCCEEDED, Phase.RUNNING, Phase.SUSPENDED, Phase.QUEUED)
    return not settled, reasons.UP_TO_DATE if settled else reasons.STARTING


def _writer(observed: Observed, now: datetime) -> str:
    """One of those that keep the next attempt from the storage; empty where nobody does."""
    jobs = [f"Job {job.name}" for job in observed.running_predecessors]
    return min(jobs or [f"Pod {pod.name}" for pod in observed.writers(now)], default="")


def _running(observed: Observed, phase: Phase) -> Verdict:
    if observed.job is None:
        return False, reasons.NOT_STARTED
    if observed.job.over and not observed.accepted:
        return False, reasons.PODS_ENDED
    pods = observed.current_pods
    total = observed.spec.runtime.nodes if observed.spec else len(pods)
    match phase:
        case Phase.RUNNING:
            return True, reasons.PODS_RUNNING(started=observed.started, total=total)
        case Phase.STARTING:
            waiting = obstacle(pods, observed.explanation) or "Nothing is known to be in the way."
            ready = sum(pod.running for pod in pods)
            return False, reasons.PODS_PENDING(ready=ready, total=total, detail=waiting)
        case _:
            return False, reasons.PODS_ENDED


def _suspended(phase: Phase) -> Verdict:
    match phase:
        case Phase.SUSPENDED:
            return True, reasons.SUSPENDED_BY_SPEC
        case Phase.QUEUED:
            return True, reasons.QUEUED
        case _:
            return False, reasons.NOT_SUSPENDED


def _resumable(observed: Observed) -> Verdict:
    if observed.spec is None:
        return None, reasons.INVALID_SPEC(errors="; ".join(observed.errors))
    if not durable(observed.spec):
        return False, reasons.EPHEMERAL_STORAGE
    if observed.spec.method.checkpoint.resume == "never":
        return False, reasons.RESUME_NEVER
    return True, reasons.DURABLE_STORAGE


def _progress_unknown(observed: Observed, phase: Phase) -> Verdict:
    poll = observed.current_poll
    if phase != Phase.RUNNING or poll is None:
        return False, reasons.NOT_REPORTING
    if poll.silent_since is None:
        return False, reasons.ENDPOINT_ANSWERS
    if poll.at - poll.silent_since >= SILENCE_PATIENCE:
        return True, reasons.ENDPOINT_SILENT(error=poll.error)
    before = observed.object.status.conditions
    told = next((c for c in before if c.type == Condition.PROGRESS_UNKNOWN), None)
    answered = told is not None and told.reason == reasons.ENDPOINT_ANSWERS.reason
    return False, reasons.ENDPOINT_ANSWERS if answered else reasons.NOT_REPORTING


def _too_large(observed: Observed) -> Reason | None:
    """What was once estimated stays: what trains is the same as long as the job lives."""
    if observed.shortage:
        return reasons.TOO_LARGE(message=observed.shortage)
    before = observed.object.status.conditions
    kept = (Reason(c.reason, c.message) for c in before if c.type == Condition.GPU_TOO_SMALL)
    return next(kept, None)


def _end_reason(
    observed: Observed,
    phase: Phase,
    failure: Failure | None,
    outcome: Outcome | None,
    model: TrainedModel | None,
) -> Reason:
    if phase == Phase.SUCCEEDED:
        steps = outcome.step if outcome else "all"
        return reasons.TRAINED(steps=steps, place=_place(model, observed.spec))
    if phase == Phase.FAILED and failure is not None:
        return Reason(failure.reason, failure.message)
    return reasons.IN_PROGRESS


def _place(model: TrainedModel | None, spec: AlignTuneJobSpec | None) -> str:
    if model is not None:
        return f"is in {model.path}" if model.path else f"is at {model.url}"
    push = spec.hub.push if spec else None
    return f"is {push.repo_id} on the hub" if push else "is gone with its ephemeral storage"
