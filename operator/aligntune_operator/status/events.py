"""The Events that a person reads in `kubectl describe`: one for each change worth telling."""

from datetime import datetime
from typing import NamedTuple

from aligntune.api.conditions import Condition, Phase
from aligntune.api.status import AlignTuneJobStatus, Attempts, Failure, StatusCondition
from aligntune_operator.clock import timestamp
from aligntune_operator.observe import Key


class Event(NamedTuple):
    """What happened to an AlignTuneJob."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str


class Posting(NamedTuple):
    """An Event with what it is about: all that is written of it."""

    key: Key
    uid: str
    resource_version: int
    """The version of the AlignTuneJob whose status was made from what happened."""
    event: Event
    at: datetime


def events(before: AlignTuneJobStatus, after: AlignTuneJobStatus) -> list[Event]:
    """The Events of a status change that was written."""
    happened = []
    old, new = _conditions(before), _conditions(after)
    accepted, before_it = new.get(Condition.ACCEPTED), old.get(Condition.ACCEPTED)
    differs = _status_and_message(accepted) != _status_and_message(before_it)
    started = after.attempts.current > before.attempts.current
    # That an attempt has started tells of a valid spec, too.
    if accepted and differs and not started:
        kind = "Normal" if accepted.status == "True" else "Warning"
        happened.append(Event(kind, accepted.reason, accepted.message))
    too_small = new.get(Condition.GPU_TOO_SMALL)
    if too_small and Condition.GPU_TOO_SMALL not in old:
        happened.append(Event("Warning", too_small.reason, too_small.message))
    if after.attempts.restarts > before.attempts.restarts and after.failure:
        happened.append(_attempt_failed("Warning", after.attempts, after.failure))
    if after.attempts.preemptions > before.attempts.preemptions and after.failure:
        happened.append(_attempt_failed("Normal", after.attempts, after.failure))
    if started:
        number = after.attempts.current
        happened.append(Event("Normal", "AttemptStarted", f"Attempt {number} started."))
    if after.phase == before.phase:
        return happened
    match after.phase:
        case Phase.RUNNING | Phase.SUSPENDED:
            condition = new[Condition(after.phase.value)]
            happened.append(Event("Normal", condition.reason, condition.message))
        case Phase.SUCCEEDED:
            condition = new[Condition.COMPLETE]
            happened.append(Event("Normal", condition.reason, condition.message))
        case Phase.FAILED:
            condition = new[Condition.FAILED]
            happened.append(Event("Warning", condition.reason, condition.message))
    return happened


def _attempt_failed(kind: str, attempts: Attempts, failure: Failure) -> Event:
    """An attempt that is followed by another."""
    assert attempts.next_start is not None  # noqa: S101 - it is set where one follows
    start = timestamp(attempts.next_start)
    follows = f"Attempt {attempts.current} ended; the next starts after {start}: "
    return Event(kind, failure.reason.value, follows + failure.message)


def _conditions(status: AlignTuneJobStatus) -> dict[str, StatusCondition]:
    return {condition.type: condition for condition in status.conditions}


def _status_and_message(condition: StatusCondition | None) -> tuple[str, str] | None:
    return (condition.status, condition.message) if condition else None
