"""What to do next about one AlignTuneJob: a pure decision, taken from the whole state each time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from aligntune.api.job import AlignTuneJobSpec, PolicySpec
from aligntune.api.status import Attempts
from aligntune_operator.attempts import SUSPENDED, newest, over
from aligntune_operator.observe import (
    WITNESS_PATIENCE,
    JobState,
    Observed,
    PodState,
)
from aligntune_operator.status.conditions import finished
from aligntune_operator.status.ending import deadline_due, start_due


@dataclass(frozen=True)
class CreateJob:
    """Start an attempt."""

    attempt: int


@dataclass(frozen=True)
class DeleteJob:
    """Remove an attempt's Job with its pods; each pod gets its grace period for a checkpoint."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteAlignTuneJob:
    """Remove the AlignTuneJob itself, as `policy.ttlSecondsAfterFinished` asks."""

    uid: str


@dataclass(frozen=True)
class Explain:
    """Ask the Events of the newest attempt's Job and pods why they do not start."""

    uids: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Look again at this time, even if nothing happens until then."""

    until: datetime


EXPLANATION_INTERVAL = timedelta(seconds=15)
"""How often Events are asked why an attempt does not start, and how long before it is first."""

AWAITED_INTERVAL = timedelta(minutes=1)
"""How often a job that is to be deleted is looked at while another waits for its model."""

KEPT_JOBS = 3
"""Attempts whose Jobs and pods are kept, the newest included."""

Action = CreateJob | DeleteJob | DeleteAlignTuneJob | Explain | Wait


def plan(observed: Observed, now: datetime) -> list[Action]:
    """The actions that bring the cluster closer to what the spec asks; [] when nothing is due.

    Carried out and observed again, the same state plans nothing new.
    """
    if observed.object.deleting or observed.object.unreadable:
        return []
    if outdated := observed.outdated:
        # Attempt 1 of the spec as it is now takes its name, so that is to be free first.
        return [DeleteJob(job.name, job.uid) for job in outdated if not job.deleting]
    if observed.spec is None:
        return []
    if finished(observed.object.status):
        return list(_clean_up(observed, observed.spec.policy, now))
    return list(_run(observed, observed.spec, now)) if observed.accepted else []


def _run(observed: Observed, spec: AlignTuneJobSpec, now: datetime) -> Iterator[Action]:
    yield from _forget_old_jobs(observed)
    job, attempts = observed.job, observed.object.status.attempts
    recorded = job is None or any(entry.attempt == job.attempt for entry in attempts.history)
    if recorded and over(attempts):
        if job is not None and not job.over and not job.deleting:
            # The status has given up on it: its node is gone, or it did not start in time.
            yield DeleteJob(job.name, job.uid)
        elif not spec.suspend and not observed.object.from_jobs:
            yield from _next_attempt(observed, attempts, now)
    elif job is not None and job.over and job.ended is not None:
        # The status is due as soon as the pods' last words are seen, or given up on.
        yield Wait(job.ended + WITNESS_PATIENCE)
    elif job is not None and spec.suspend and not job.deleting:
        # What ends the attempt stands in the status first, where a suspension that is taken back
        # meanwhile, or the operator's own end, does not lose it.
        if _booked_as_suspended(job, attempts):
            yield DeleteJob(job.name, job.uid)
    else:
        yield from _follow(observed, spec, now)


def _booked_as_suspended(job: JobState, attempts: Attempts) -> bool:
    entry = newest(attempts)
    return entry is not None and entry.attempt == job.attempt and entry.reason == SUSPENDED


def _next_attempt(observed: Observed, attempts: Attempts, now: datetime) -> Iterator[Action]:
    """The next attempt, once its time has come and no pod is left, or to come, that could write
    beside it.
    """
    if observed.running_predecessors:
        return
    if writers := observed.writers(now):
        yield from _await_end(writers, now)
    elif attempts.next_start is not None and attempts.next_start > now:
        yield Wait(attempts.next_start)
    else:
        yield CreateJob(attempts.current + 1)


def _follow(observed: Observed, spec: AlignTuneJobSpec, now: datetime) -> Iterator[Action]:
    """What is due for the attempt under way, besides its own end."""
    job, pods = observed.job, observed.current_pods
    yield from _await_end(observed.pods, now)
    if job is None or job.deleting or job.suspended or job.active_since is None:
        return
    for due in (start_due(observed), deadline_due(observed)):
        if due is not None:
            yield Wait(due)
    silent = [pod for pod in pods if not pod.started and not pod.waiting]
    if silent or len(pods) < spec.runtime.nodes:
        asked = observed.explanation.at if observed.explanation else job.active_since
        again = asked + EXPLANATION_INTERVAL
        yield Wait(again) if again > now else Explain((job.uid, *(pod.uid for pod in silent)))


def _await_end(pods: Iterable[PodState], now: datetime) -> Iterator[Action]:
    """A pod that is being deleted ends by itself, unless its node is gone."""
    for pod in pods:
        if pod.lost_at is not None and pod.lost_at > now and not pod.ended:
            yield Wait(pod.lost_at)


def _forget_old_jobs(observed: Observed) -> Iterator[Action]:
    """Jobs and pods of the last attempts stay for their logs; older ones go."""
    newest = observed.object.status.attempts.current
    for job in observed.jobs:
        if job.attempt <= newest - KEPT_JOBS and not job.deleting:
            yield DeleteJob(job.name, job.uid)


def _clean_up(observed: Observed, policy: PolicySpec, now: datetime) -> Iterator[Action]:
    end = observed.object.status.completion_time
    if end is None:
        return
    retained_until = end + timedelta(seconds=policy.pod_retention_seconds)
    if retained_until > now:
        yield Wait(retained_until)
    for job in observed.jobs:
        # One that is not over was given up on: it did not start in time, or its node is gone.
        if not job.deleting and (not job.over or retained_until <= now):
            yield DeleteJob(job.name, job.uid)
    if policy.ttl_seconds_after_finished is not None:
        expires = end + timedelta(seconds=policy.ttl_seconds_after_finished)
        if observed.awaited:
            expires = max(expires, now + AWAITED_INTERVAL)
        yield Wait(expires) if expires > now else DeleteAlignTuneJob(observed.object.uid)
