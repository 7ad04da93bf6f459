import json
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from aligntune.api.causes import Cause
from aligntune.api.env import TERMINATION_MESSAGE_PATH
from aligntune.api.progress import Checkpoint, Outcome
from aligntune.pod.outcome import TERMINATION_MESSAGE_BYTES, leave, termination_message

SAVED_AT = datetime(2026, 11, 23, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8"), max_size=2048)
# Characters that JSON writes in 1 to 6 bytes, and enough of them to matter.
long_texts = st.sampled_from(["x", "\n", "\x01", "é", "語", "🙂", '"']).map(lambda c: c * 2048)
outcomes = st.builds(
    Outcome,
    result=st.sampled_from(["Failed", "Succeeded", "Preempted"]),
    reason=st.sampled_from(Cause),
    message=texts | long_texts,
    exitCode=st.integers(0, 255),
    step=st.integers(0, 10**9),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=64),
    checkpoint=st.none()
    | st.builds(Checkpoint, step=st.just(1), path=texts | long_texts, savedAt=st.just(SAVED_AT)),
    modelPath=st.none() | texts | long_texts,
    logTail=texts | long_texts,
)


@given(outcomes)
@settings(max_examples=100)
def test_termination_message_always_fits_and_parses(outcome: Outcome) -> None:
    message = termination_message(outcome)
    assert len(message) <= TERMINATION_MESSAGE_BYTES
    read = Outcome.model_validate_json(message)
    assert (read.result, read.reason, read.step) == (outcome.result, outcome.reason, outcome.step)


def test_an_outcome_of_a_newer_trainer_is_read_as_far_as_it_is_known() -> None:
    told = {
        "result": "Failed",
        "exitCode": 75,
        "reason": "CosmicRay",
        "step": 3,
        "particle": "muon",
    }
    outcome = Outcome.model_validate_json(json.dumps(told))
    assert (outcome.reason, outcome.exit_code, outcome.step) == (Cause.UNKNOWN, 75, 3)


def test_the_end_of_the_log_and_the_start_of_the_message_are_kept() -> None:
    outcome = Outcome(
        result="Failed",
        exit_code=70,
        message="what is wrong " + "é" * 2000,
        log_tail="\x01" * 2000 + "the last line",
    )
    read = Outcome.model_validate_json(termination_message(outcome))
    assert read.message == outcome.message
    assert len(read.log_tail) < 10
    shorter = outcome.model_copy(update={"message": "what is wrong"})
    read = Outcome.model_validate_json(termination_message(shorter))
    assert read.message == "what is wrong"
    assert read.log_tail.endswith("the last line")


def test_outcome_is_left_in_both_places(tmp_path: Path) -> None:
    outcome = Outcome(result="Succeeded", exit_code=0, step=7, metrics={"loss": 1.5})
    message = tmp_path / "termination-log"
    leave(outcome, tmp_path / "outcome.json", {TERMINATION_MESSAGE_PATH: str(message)})
    assert Outcome.model_validate_json(message.read_bytes()) == outcome
    assert json.loads((tmp_path / "outcome.json").read_text())["metrics"] == {"loss": 1.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outcome.json", "termination-log"]


def test_places_that_are_gone_do_not_change_the_outcome(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    outcome = Outcome(result="Succeeded", exit_code=0)
    leave(outcome, gone / "outcome.json", {TERMINATION_MESSAGE_PATH: str(gone / "log")})
    assert not gone.exists()
