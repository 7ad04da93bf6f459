"""The conditions of an AlignTuneJob, as metav1 and kstatus define them."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from aligntune.api.conditions import Condition, Reason
from aligntune.api.status import LONGEST_MESSAGE, AlignTuneJobStatus, StatusCondition

OURS = frozenset(Condition)

Verdict = tuple[bool | None, Reason]
"""Whether a condition holds (None: unknown), and why."""


def merge(
    before: Iterable[StatusCondition],
    verdicts: Mapping[Condition, Verdict],
    generation: int,
    now: datetime,
) -> list[StatusCondition]:
    """The conditions after `verdicts`, and those of others as they were.

    A transition time moves only when the status changes.
    """
    known = {condition.type: condition for condition in before}
    ours = [
        _condition(known.get(kind), kind, verdict, generation, now)
        for kind, verdict in verdicts.items()
    ]
    return ours + [condition for condition in known.values() if condition.type not in OURS]


def _condition(
    before: StatusCondition | None,
    kind: Condition,
    verdict: Verdict,
    generation: int,
    now: datetime,
) -> StatusCondition:
    holds, reason = verdict
    status = "Unknown" if holds is None else str(holds)
    message = reason.message[:LONGEST_MESSAGE]
    told = (status, reason.reason, message, generation)
    if before is not None and told == (
        before.status,
        before.reason,
        before.message,
        before.observed_generation,
    ):
        return before
    unchanged = before is not None and before.status == status
    return StatusCondition(
        type=kind,
        status=status,  # type: ignore[arg-type] # one of the three words by construction
        reason=reason.reason,
        message=message,
        last_transition_time=before.last_transition_time
        if before and unchanged
        else now.replace(microsecond=0),
        observed_generation=generation,
    )


def holds(status: AlignTuneJobStatus, kind: Condition) -> bool:
    """Whether a condition is True."""
    return any(c.type == kind and c.status == "True" for c in status.conditions)


def finished(status: AlignTuneJobStatus) -> bool:
    """Whether the job is over, either way."""
    return holds(status, Condition.FINISHED)
