"""Whether the newest attempt is over, and how it ended."""

from datetime import datetime, timedelta
from typing import NamedTuple

from aligntune.api.causes import Cause
from aligntune.api.status import Attempt, Failure
from aligntune_operator.attempts import SUCCEEDED, SUSPENDED
from aligntune_operator.observe import WITNESS_PATIENCE, Observed, PodState
from aligntune_operator.status.failure import (
    SENTENCES,
    classify,
    deadline_exceeded,
    make_failure,
    not_started,
)


class Ending(NamedTuple):
    """How an attempt ended."""

    reason: str
    """Succeeded, Suspended, or the cause."""
    at: datetime
    failure: Failure | None = None
    """None if it succeeded, or was suspended."""


def ending(observed: Observed, entry: Attempt, now: datetime) -> Ending | None:
    """How the attempt of `entry` ended; None while it is under way or its end not fully seen.

    An attempt that did not start in time, has used up the deadline, or whose node is gone, counts
    as over before its Job is: the operator lets go of it then.
    """
    job, pods = observed.job, observed.current_pods
    if job is not None and job.over:
        if awaits_witnesses(observed, now):
            return None
        end = job.ended or now
        failure = None if job.complete else classify(job, observed.witnesses)
        return _failed(failure, end) if failure else Ending(SUCCEEDED, end)
    lost = next((pod for pod in pods if pod.lost(now)), None)
    if job is None or lost is not None:
        # The rest of a gang that has lost a pod waits for it, and holds GPUs until it is let go of.
        ends_by_itself = lost is None or entry.reason == SUSPENDED
        return None if ends_by_itself and observed.writers(now) else _gone(entry, lost, now)
    if (due := deadline_due(observed)) is not None and now >= due:
        return _failed(deadline_exceeded(), now)
    if (due := start_due(observed)) is not None and now >= due:
        began = job.active_since or job.created
        return _failed(not_started(pods, observed.explanation, began, now), now)
    return None


def _gone(entry: Attempt, lost: PodState | None, now: datetime) -> Ending:
    """The end of an attempt without a Job, or with one that a dead node keeps from ending."""
    if entry.reason == SUSPENDED:
        return Ending(SUSPENDED, now)
    if lost is not None:
        return _failed(make_failure(Cause.NODE_LOST, SENTENCES[Cause.NODE_LOST], lost.name), now)
    return _failed(make_failure(Cause.PREEMPTED, "its Job was deleted from outside"), now)


def awaits_witnesses(observed: Observed, now: datetime) -> bool:
    """Whether the Job is seen to have ended but a pod is not yet."""
    job = observed.job
    if job is None or job.ended is None or now - job.ended >= WITNESS_PATIENCE:
        return False
    return not observed.witnesses or not all(pod.ended for pod in observed.current_pods)


def start_due(observed: Observed) -> datetime | None:
    """When every pod must run; None where there is no limit, or they do, or did.

    Time in a queue does not count: a Job's start time is set anew when it is let go.
    """
    job, spec = observed.job, observed.spec
    if job is None or job.deleting or job.active_since is None or spec is None:
        return None
    limit = spec.policy.start_timeout_seconds
    if limit is None or observed.all_started:
        return None
    return job.active_since + timedelta(seconds=limit)


def deadline_due(observed: Observed) -> datetime | None:
    """When all attempts together have held pods for as long as they may; None without a limit.

    A Job's own deadline begins anew each time that a queue lets it go; where none did, it has a
    moment to be first.
    """
    job, spec, attempts = observed.job, observed.spec, observed.object.status.attempts
    if job is None or job.deleting or spec is None or attempts.active_since is None:
        return None
    limit = spec.policy.active_deadline_seconds
    if limit is None or job.active_since != attempts.active_since:
        return None
    left = max(limit - attempts.active_seconds, 0)
    return attempts.active_since + timedelta(seconds=left) + WITNESS_PATIENCE


def _failed(failure: Failure, at: datetime) -> Ending:
    return Ending(failure.reason, at, failure)
