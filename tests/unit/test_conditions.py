from datetime import UTC, datetime

from aligntune.api.conditions import INVALID_SPEC, VALID, Condition
from aligntune.api.status import LONGEST_MESSAGE, StatusCondition
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


def test_a_message_is_as_long_as_the_api_server_takes_and_is_written_once() -> None:
    verdict = {Condition.ACCEPTED: (False, INVALID_SPEC(errors="no; " * LONGEST_MESSAGE))}
    written = merge([], verdict, 1, NOW)
    assert len(written[0].message) == LONGEST_MESSAGE
    assert merge(written, verdict, 1, NOW) == written
