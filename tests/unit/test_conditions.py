from datetime import UTC, datetime

from aligntune.api.conditions import VALID, Condition
from aligntune.api.status import StatusCondition
from aligntune_operator.status.conditions import merge

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def condition(kind: str) -> StatusCondition:
    return StatusCondition(
        type=kind, status="True", reason="Because", message="", last_transition_time=NOW
    )


def test_conditions_of_others_stay_as_they_were_and_those_of_ours_that_no_longer_hold_go() -> None:
    theirs = condition("example.com/Approved")
    before = [condition(Condition.GPU_TOO_SMALL), theirs]
    reason = VALID(backend="trl", task="sft")
    after = merge(before, {Condition.ACCEPTED: (True, reason)}, 1, NOW)
    assert [found.type for found in after] == ["Accepted", "example.com/Approved"]
    assert after[1] == theirs
