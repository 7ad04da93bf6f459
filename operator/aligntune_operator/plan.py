"""What to do next about one AlignTuneJob: a pure decision, taken from the whole state each time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from aligntune.api.job import AlignTuneJobSpec, PolicySpec
from aligntune_operator.observe import WITNESS_PATIENCE, Observed
from aligntune_operator.status.conditions import finished


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
class Wait:
    """Look again at this time, even if nothing happens until then."""

    until: datetime


Action = CreateJob | DeleteJob | DeleteAlignTuneJob | Wait


def plan(observed: Observed, now: datetime) -> list[Action]:
    """The actions that bring the cluster closer to what the spec asks; [] when nothing is due.

    Carried out and observed again, the same state plans nothing new.
    """
    if observed.object.deleting or observed.object.unreadable or observed.spec is None:
        return []
    if finished(observed.object.status):
        return list(_clean_up(observed, observed.spec.policy, now))
    return list(_next_attempt(observed, observed.spec)) if observed.accepted else []


def _next_attempt(observed: Observed, spec: AlignTuneJobSpec) -> Iterator[Action]:
    job = observed.job
    if job is None and not spec.suspend:
        yield CreateJob(observed.object.status.attempts.current + 1)
    elif job is not None and job.over and job.ended is not None:
        # The status is due as soon as the pods' last words are seen, or given up on.
        yield Wait(job.ended + WITNESS_PATIENCE)
    elif job is not None and spec.suspend and not job.deleting:
        yield DeleteJob(job.name, job.uid)


def _clean_up(observed: Observed, policy: PolicySpec, now: datetime) -> Iterator[Action]:
    end = observed.object.status.completion_time
    if end is None:
        return
    retained_until = end + timedelta(seconds=policy.pod_retention_seconds)
    jobs = [job for job in observed.jobs if not job.deleting]
    if jobs and retained_until > now:
        yield Wait(retained_until)
    elif jobs:
        yield from (DeleteJob(job.name, job.uid) for job in jobs)
    if policy.ttl_seconds_after_finished is not None:
        expires = end + timedelta(seconds=policy.ttl_seconds_after_finished)
        yield Wait(expires) if expires > now else DeleteAlignTuneJob(observed.object.uid)
