"""The status of an AlignTuneJob: a pure function of what was observed."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice

from aligntune.api import conditions as reasons
from aligntune.api.conditions import Condition, Phase, Reason
from aligntune.api.progress import Checkpoint, Metrics, Outcome, Progress, Snapshot
from aligntune.api.status import AlignTuneJobStatus, Attempt, Attempts, Failure, TrainedModel
from aligntune_operator.observe import WITNESS_PATIENCE, JobState, Observed
from aligntune_operator.status.conditions import Verdict, finished, merge
from aligntune_operator.status.failure import classify
from aligntune_operator.status.summary import summarise

IDLE: dict[str, object] = {
    "eta_seconds": None,
    "samples_per_second": None,
    "tokens_per_second": None,
}
"""What is not so while nothing trains."""

MOST_METRICS = 64
"""Metrics in a status, as its schema allows; the newest stay."""

SILENCE_PATIENCE = timedelta(seconds=30)
"""How long an endpoint may be silent before a condition says so: one lost packet is no news."""


def reduce_status(observed: Observed, now: datetime) -> AlignTuneJobStatus:
    """What the resource should say; a finished job says the same for ever."""
    before = observed.object.status
    if finished(before):
        return _at_generation(before, observed.object.generation)
    phase, failure = _phase(observed, now)
    snapshot, outcome = _last_word(observed)
    progress = _progress(before.progress, snapshot, outcome)
    metrics = _metrics(before.metrics, snapshot, outcome)
    checkpoint = _checkpoint(before.checkpoint, snapshot, outcome)
    model = None
    if phase == Phase.SUCCEEDED and outcome:
        model = TrainedModel(path=outcome.model_path, url=outcome.model_url)
    over = phase in (Phase.SUCCEEDED, Phase.FAILED)
    if progress and phase != Phase.RUNNING:
        activity = "done" if over else "starting"
        progress = progress.model_copy(update=IDLE | {"activity": activity})
    return AlignTuneJobStatus(
        observed_generation=observed.object.generation,
        phase=phase,
        conditions=merge(
            before.conditions,
            _verdicts(observed, phase, failure, outcome),
            observed.object.generation,
            now,
        ),
        summary=summarise(observed.spec, progress, metrics),
        progress=progress,
        metrics=metrics,
        checkpoint=checkpoint,
        tracker_urls=(snapshot and snapshot.tracker_urls) or before.tracker_urls,
        attempts=_attempts(before.attempts, observed.job, phase, failure, progress),
        failure=failure,
        model=model,
        start_time=before.start_time or (observed.job.created if observed.job else None),
        completion_time=_ended(observed, now) if over else None,
    )


def _at_generation(status: AlignTuneJobStatus, generation: int) -> AlignTuneJobStatus:
    """The same verdicts on a spec in which only what may change has changed."""
    conditions = [
        condition.model_copy(update={"observed_generation": generation})
        for condition in status.conditions
    ]
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _phase(observed: Observed, now: datetime) -> tuple[Phase, Failure | None]:
    job, pods, spec = observed.job, observed.current_pods, observed.spec
    if spec is None or not observed.accepted:
        return Phase.PENDING, None
    if job is not None and job.over:
        if _awaits_witnesses(observed, now):
            return observed.object.status.phase, None
        return (Phase.SUCCEEDED, None) if job.complete else (Phase.FAILED, classify(job, pods))
    if job is None:
        return (Phase.SUSPENDED if spec.suspend else Phase.PENDING), None
    if job.deleting:
        return observed.object.status.phase, None
    started = sum(pod.started for pod in pods)
    return (Phase.RUNNING if started == spec.runtime.nodes else Phase.STARTING), None


def _awaits_witnesses(observed: Observed, now: datetime) -> bool:
    """Whether the Job is seen to have ended but a pod is not yet."""
    job = observed.job
    if job is None or job.ended is None or now - job.ended >= WITNESS_PATIENCE:
        return False
    return not observed.current_pods or not all(pod.ended for pod in observed.current_pods)


def _last_word(observed: Observed) -> tuple[Snapshot | None, Outcome | None]:
    """The newest report of the current attempt; another pod's does not count."""
    pods, poll = observed.current_pods, observed.current_poll
    snapshot = poll.snapshot if poll else None
    outcome = next((pod.outcome for pod in pods if pod.ended and pod.outcome), None)
    return snapshot, outcome


def _progress(
    before: Progress | None, snapshot: Snapshot | None, outcome: Outcome | None
) -> Progress | None:
    known = before or Progress()
    if snapshot is not None:
        told = snapshot.progress
        # Until it has read its checkpoint, a new attempt does not know how far the last one came.
        knows = told.total_steps is not None or told.step > 0
        fresh = {"activity": told.activity, "updated_at": told.updated_at}
        known = told if knows else known.model_copy(update=IDLE | fresh)
    if outcome is None:
        return known if before or snapshot else None
    # A rank that fails early may not know how far the run had come before.
    step = outcome.step or known.step
    total = outcome.total_steps or known.total_steps
    percent = min(100 * step // total, 100) if total else None
    return known.model_copy(update={"step": step, "total_steps": total, "percent": percent})


def _metrics(before: Metrics, snapshot: Snapshot | None, outcome: Outcome | None) -> Metrics:
    new = (snapshot.metrics if snapshot else {}) | (outcome.metrics if outcome else {})
    older = {name: value for name, value in before.items() if name not in new}
    return dict(islice((new | older).items(), MOST_METRICS))


def _checkpoint(
    before: Checkpoint | None, snapshot: Snapshot | None, outcome: Outcome | None
) -> Checkpoint | None:
    told = (
        outcome.checkpoint if outcome else None,
        snapshot.checkpoint if snapshot else None,
        before,
    )
    return next((checkpoint for checkpoint in told if checkpoint), None)


def _attempts(
    before: Attempts,
    job: JobState | None,
    phase: Phase,
    failure: Failure | None,
    progress: Progress | None,
) -> Attempts:
    if job is None:
        return before
    current = max(before.current, job.attempt)
    if phase not in (Phase.SUCCEEDED, Phase.FAILED):
        return before.model_copy(update={"current": current})
    ended = Attempt(
        attempt=job.attempt,
        job=job.name,
        reason=failure.reason if failure else "Succeeded",
        exit_code=failure.exit_code if failure else 0,
        pod=failure.pod if failure else None,
        to_step=progress.step if progress else None,
        start=job.created,
        end=job.ended,
    )
    return before.model_copy(update={"current": current, "history": [*before.history, ended][-10:]})


def _ended(observed: Observed, now: datetime) -> datetime:
    return (observed.job.ended if observed.job else None) or now


def _verdicts(
    observed: Observed, phase: Phase, failure: Failure | None, outcome: Outcome | None
) -> Mapping[Condition, Verdict]:
    over = phase in (Phase.SUCCEEDED, Phase.FAILED)
    end = _end_reason(phase, failure, outcome)
    accepted = _accepted(observed)
    reconciling: Verdict
    stalled: Verdict
    refused = accepted[0] is False
    if refused:
        reconciling, stalled = (False, accepted[1]), (True, accepted[1])
    elif phase == Phase.FAILED:
        reconciling, stalled = (False, end), (True, end)
    else:
        reconciling = _reconciling(observed, phase)
        stalled = (False, reasons.WORKING)
    return {
        Condition.ACCEPTED: accepted,
        Condition.RUNNING: _running(observed, phase),
        Condition.SUSPENDED: (
            phase == Phase.SUSPENDED,
            reasons.SUSPENDED_BY_SPEC if phase == Phase.SUSPENDED else reasons.NOT_SUSPENDED,
        ),
        Condition.PROGRESS_UNKNOWN: _progress_unknown(observed, phase),
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
    if hindrance and hindrance.refused and observed.object.status.attempts.current == 0:
        return False, reasons.REFUSED(error=hindrance.message)
    return True, reasons.VALID(backend=observed.spec.backend, task=observed.spec.task)


def _reconciling(observed: Observed, phase: Phase) -> Verdict:
    job, hindrance = observed.job, observed.hindrance
    if job is not None and job.deleting and not job.over:
        return True, reasons.STOPPING
    if phase == Phase.PENDING and hindrance is not None:
        return True, reasons.HINDERED(error=hindrance.message)
    settled = phase in (Phase.SUCCEEDED, Phase.RUNNING, Phase.SUSPENDED)
    return not settled, reasons.UP_TO_DATE if settled else reasons.STARTING


def _running(observed: Observed, phase: Phase) -> Verdict:
    if observed.job is None or observed.spec is None:
        return False, reasons.NOT_STARTED
    total = observed.spec.runtime.nodes
    match phase:
        case Phase.RUNNING:
            return True, reasons.PODS_RUNNING(total=total)
        case Phase.STARTING:
            pods = observed.current_pods
            waiting = "; ".join(sorted({pod.waiting for pod in pods if pod.waiting}))
            waiting = waiting or "Nothing is known to be in the way."
            ready = sum(pod.running for pod in pods)
            return False, reasons.PODS_PENDING(ready=ready, total=total, detail=waiting)
        case _:
            return False, reasons.PODS_ENDED


def _progress_unknown(observed: Observed, phase: Phase) -> Verdict:
    poll = observed.current_poll
    if phase != Phase.RUNNING or poll is None:
        return False, reasons.NOT_REPORTING
    if poll.silent_since is not None and poll.at - poll.silent_since >= SILENCE_PATIENCE:
        return True, reasons.ENDPOINT_SILENT(error=poll.error)
    return False, reasons.ENDPOINT_ANSWERS


def _end_reason(phase: Phase, failure: Failure | None, outcome: Outcome | None) -> Reason:
    if phase == Phase.SUCCEEDED:
        path = outcome.model_path if outcome else None
        return reasons.TRAINED(steps=outcome.step if outcome else "all", path=path or "its storage")
    if failure is not None:
        return Reason(failure.reason, failure.message)
    return reasons.IN_PROGRESS
