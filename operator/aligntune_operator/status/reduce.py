"""The status of an AlignTuneJob: a pure function of what was observed."""

from datetime import datetime
from itertools import islice

from aligntune.api.conditions import OVER, Phase
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.names import MODEL, output_folder
from aligntune.api.progress import MAX_METRICS, Checkpoint, Metrics, Outcome, Progress, Snapshot
from aligntune.api.status import AlignTuneJobStatus, Attempts, TrainedModel
from aligntune_operator import stages
from aligntune_operator.attempts import (
    SUCCEEDED,
    SUSPENDED,
    add_attempt,
    close_newest,
    count_pod_time,
    durable,
    follow,
    newest,
    over,
    resume_step,
    update_newest,
)
from aligntune_operator.observe import Observed
from aligntune_operator.status.conditions import OURS, finished, merge
from aligntune_operator.status.ending import (
    Ending,
    awaits_witnesses,
    ending,
)
from aligntune_operator.status.summary import summarise
from aligntune_operator.status.verdicts import verdicts

IDLE: dict[str, object] = {
    "eta_seconds": None,
    "samples_per_second": None,
    "tokens_per_second": None,
}
"""What is not so while nothing trains."""

UNDER_WAY = (Phase.QUEUED, Phase.STARTING, Phase.RUNNING)


def reduce_status(observed: Observed, now: datetime) -> AlignTuneJobStatus:
    """What the resource should say; a finished job says the same for ever."""
    before = observed.object.status
    if finished(before):
        return _at_generation(before, observed.object.generation)
    snapshot, outcome = _last_word(observed)
    progress = _progress(before.progress, snapshot, outcome)
    metrics = _metrics(before.metrics, snapshot, outcome)
    checkpoint = _checkpoint(before.checkpoint, snapshot, outcome)
    reached = _reached(snapshot, outcome)
    attempts, end = _attempts(observed, reached, before.checkpoint, now)
    failure = before.failure
    if end is not None:
        failure = end.failure
    if end is not None and end.failure is not None:
        attempts, failure = follow(end.failure, attempts, observed, checkpoint, now)
    phase = _phase(observed, attempts, end, now)
    if observed.accepted and (missing := stages.failure(observed)):
        phase, failure = Phase.FAILED, missing
    finishes = phase in OVER
    model = _model(observed, outcome) if phase == Phase.SUCCEEDED else None
    if progress and phase != Phase.RUNNING:
        activity = "done" if finishes else "starting"
        progress = progress.model_copy(update=IDLE | {"activity": activity})
    return AlignTuneJobStatus(
        observed_generation=observed.object.generation,
        phase=phase,
        conditions=merge(
            before.conditions,
            verdicts(observed, phase, attempts, failure, outcome=outcome, model=model, now=now),
            observed.object.generation,
            now,
        ),
        summary=summarise(observed.spec, progress, metrics),
        progress=progress,
        metrics=metrics,
        checkpoint=checkpoint,
        tracker_urls=(snapshot and snapshot.tracker_urls) or before.tracker_urls,
        attempts=attempts,
        failure=failure,
        lineage=before.lineage or stages.lineage(observed),
        model=model,
        start_time=before.start_time or (observed.job.created if observed.job else None),
        completion_time=(end.at if end else now) if finishes else None,
    )


def _model(observed: Observed, outcome: Outcome | None) -> TrainedModel | None:
    """Where the model of a job that has succeeded is: ephemeral storage ends with its pod.

    The launcher tells it, but its word may be lost: cut for its length, or gone with a pod that was
    removed while the operator was away. It is not waited for, since nothing brings it back. A pod
    ends well only once the model is saved in the output folder, so the path is known all the same
    where the storage outlives the pod; the page on the hub is not.
    """
    path, url = (outcome.model_path, outcome.model_url) if outcome else (None, None)
    spec, state = observed.spec, observed.object
    if spec is None or spec.storage is None or not durable(spec):
        path = None
    elif path is None:
        folder = output_folder(state.key.name, state.uid, spec.storage.sub_path)
        path = f"{folder}/{MODEL}"
    return TrainedModel(path=path, url=url) if path or url else None


def _at_generation(status: AlignTuneJobStatus, generation: int) -> AlignTuneJobStatus:
    """The same verdicts on a spec in which only what may change has changed."""
    conditions = [
        condition.model_copy(update={"observed_generation": generation})
        if condition.type in OURS
        else condition
        for condition in status.conditions
    ]
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _attempts(
    observed: Observed, reached: int | None, checkpoint: Checkpoint | None, now: datetime
) -> tuple[Attempts, Ending | None]:
    """The attempts with what was seen of the newest, and how it ended if it has now."""
    attempts, job, spec = observed.object.status.attempts, observed.job, observed.spec
    entry = newest(attempts)
    if job is not None and (entry is None or entry.attempt < job.attempt):
        step = resume_step(spec, checkpoint) if spec else 0
        attempts = add_attempt(attempts, job.attempt, job.name, job.let_go, step, image=job.image)
    elif over(attempts):
        return attempts, None
    if job is not None:
        known = observed.object.status.progress
        attempts = count_pod_time(attempts, job, known.updated_at if known else None)
    if reached is not None:
        attempts = update_newest(attempts, to_step=reached)
    if spec is not None and spec.suspend and (job is None or not job.over):
        attempts = update_newest(attempts, reason=SUSPENDED)
    elif spec is not None and job is not None and not job.deleting:
        # Taken back before the Job was deleted for it: what ends it now is something else.
        attempts = update_newest(attempts, reason=None)
    # A version that cannot read the spec cannot conclude on it: one that can will.
    end = ending(observed, attempts.history[-1], now) if observed.accepted else None
    return (close_newest(attempts, end.reason, end.at, end.failure) if end else attempts), end


def _phase(observed: Observed, attempts: Attempts, end: Ending | None, now: datetime) -> Phase:
    job, spec = observed.job, observed.spec
    if spec is None or not observed.accepted:
        # What another version began goes on by itself.
        return observed.object.status.phase if attempts.current else Phase.PENDING
    if end is not None and end.reason == SUCCEEDED:
        return Phase.SUCCEEDED
    if over(attempts):
        return _between(attempts, spec)
    if job is None or job.deleting or awaits_witnesses(observed, now):
        before = observed.object.status.phase
        return before if before in UNDER_WAY else Phase.STARTING
    if job.suspended:
        return Phase.QUEUED
    return Phase.RUNNING if observed.all_started else Phase.STARTING


def _between(attempts: Attempts, spec: AlignTuneJobSpec) -> Phase:
    """The phase while no attempt is under way."""
    entry = newest(attempts)
    if entry is not None and entry.reason != SUSPENDED and attempts.next_start is None:
        return Phase.FAILED
    if spec.suspend:
        return Phase.SUSPENDED
    return Phase.PENDING if entry is None else Phase.RESTARTING


def _last_word(observed: Observed) -> tuple[Snapshot | None, Outcome | None]:
    """The newest report of the current attempt; another pod's does not count."""
    over, poll = observed.job is not None and observed.job.over, observed.current_poll
    snapshot = poll.snapshot if poll else None
    pods = observed.witnesses if over else observed.current_pods
    outcome = next((pod.outcome for pod in pods if pod.ended and pod.outcome), None)
    return snapshot, outcome


def _knows(told: Progress) -> bool:
    """Whether an attempt has read its checkpoint: before, it cannot tell how far the last came."""
    return told.total_steps is not None or told.step > 0


def _reached(snapshot: Snapshot | None, outcome: Outcome | None) -> int | None:
    """The step that the newest attempt has told of; None where it knows none, or says nothing."""
    if outcome is not None and outcome.step:
        return outcome.step
    return snapshot.progress.step if snapshot and _knows(snapshot.progress) else None


def _progress(
    before: Progress | None, snapshot: Snapshot | None, outcome: Outcome | None
) -> Progress | None:
    known = before or Progress()
    if snapshot is not None:
        told = snapshot.progress
        fresh = {"activity": told.activity, "updated_at": told.updated_at}
        known = told if _knows(told) else known.model_copy(update=IDLE | fresh)
    if outcome is None:
        return known if before or snapshot else None
    # A rank that fails early may not know how far the run had come before.
    step = outcome.step or known.step
    total = outcome.total_steps or known.total_steps
    percent = min(100 * step // total, 100) if total else None
    return known.model_copy(update={"step": step, "total_steps": total, "percent": percent})


def _metrics(before: Metrics, snapshot: Snapshot | None, outcome: Outcome | None) -> Metrics:
    new = (snapshot.metrics if snapshot else {}) | (outcome.metrics if outcome else {})
    # The newest stay.
    older = {name: value for name, value in before.items() if name not in new}
    return dict(islice((new | older).items(), MAX_METRICS))


def _checkpoint(
    before: Checkpoint | None, snapshot: Snapshot | None, outcome: Outcome | None
) -> Checkpoint | None:
    told = (
        outcome.checkpoint if outcome else None,
        snapshot.checkpoint if snapshot else None,
        before,
    )
    return next((checkpoint for checkpoint in told if checkpoint), None)
