from aligntune.api.causes import Cause
from aligntune.api.exit_codes import EXIT_CODE
from aligntune.api.progress import Outcome, Progress, Snapshot
from aligntune.pod.verdict import RankEnd, conclude, failed

LAST = Snapshot(progress=Progress(step=12, total_steps=40), metrics={"loss": 1.5})
SUCCEEDED = Outcome(result="Succeeded", exit_code=0, step=40)
PREEMPTED = Outcome(result="Preempted", reason=Cause.PREEMPTED, exit_code=143, step=13)


def said(cause: Cause, message: str = "what, where, how") -> Outcome:
    return Outcome(result="Failed", reason=cause, message=message, exit_code=1)


def verdict(
    *ends: RankEnd, stop_requested: bool = False, stalled_seconds: int | None = None
) -> Outcome:
    return conclude(ends, last=LAST, stop_requested=stop_requested, stalled_seconds=stalled_seconds)


def test_all_done_is_success_as_rank_0_tells_it() -> None:
    other = Outcome(result="Succeeded", exit_code=0, step=39)
    outcome = verdict(RankEnd(1, 0, other), RankEnd(0, 0, SUCCEEDED))
    assert (outcome.result, outcome.exit_code, outcome.step) == ("Succeeded", 0, 40)
    assert outcome.metrics == {"loss": 1.5}


def test_a_crash_at_exit_after_success_was_said_changes_nothing() -> None:
    assert verdict(RankEnd(0, -11, SUCCEEDED)).result == "Succeeded"


def test_the_first_failure_is_the_cause() -> None:
    outcome = verdict(
        RankEnd(1, 65, said(Cause.DATA_ERROR), log_tail="bad row"),
        RankEnd(0, -9, ended_by_launcher=True),
    )
    assert (outcome.reason, outcome.exit_code, outcome.log_tail) == (
        Cause.DATA_ERROR,
        65,
        "bad row",
    )
    assert (outcome.step, outcome.total_steps) == (12, 40)


def test_a_lost_peer_is_not_the_cause_if_the_peer_tells_its_own() -> None:
    outcome = verdict(
        RankEnd(0, 1, said(Cause.NCCL_ERROR)),
        RankEnd(1, 1, log_tail="CUDA out of memory", ended_by_launcher=False),
    )
    assert outcome.reason is Cause.CUDA_OUT_OF_MEMORY


def test_a_cause_told_while_being_ended_counts() -> None:
    outcome = verdict(
        RankEnd(0, 1, said(Cause.NCCL_ERROR)),
        RankEnd(1, 70, said(Cause.LOSS_DIVERGED), ended_by_launcher=True),
    )
    assert outcome.reason is Cause.LOSS_DIVERGED


def test_an_unknown_failure_that_comes_first_is_not_the_cause_if_another_is_told() -> None:
    """A rank on a full disk removes its unfinished checkpoint; its peers miss their folder."""
    outcome = verdict(
        RankEnd(0, 70, said(Cause.UNKNOWN, "FileNotFoundError: .unfinished-1")),
        RankEnd(1, 74, said(Cause.DISK_FULL), ended_by_launcher=True),
    )
    assert outcome.reason is Cause.DISK_FULL


def test_a_death_without_a_word_is_diagnosed() -> None:
    outcome = verdict(RankEnd(2, 1, log_tail="Traceback\nKeyError: 'prompt'"))
    assert (outcome.reason, outcome.exit_code) == (Cause.UNKNOWN, 70)
    assert outcome.message == "rank 2: exited with code 1: KeyError: 'prompt'"


def test_an_end_without_a_word_is_a_failure_whatever_its_exit_code() -> None:
    ends = RankEnd(1, 0, SUCCEEDED), RankEnd(0, 0, log_tail="step 12")
    assert [failed(end) for end in ends] == [False, True]
    outcome = verdict(*ends)
    assert (outcome.result, outcome.reason, outcome.exit_code) == ("Failed", Cause.UNKNOWN, 70)
    assert outcome.message.startswith("rank 0: ended without saying how")


def test_an_unknown_failure_keeps_its_own_words_unless_more_is_known() -> None:
    own = said(Cause.UNKNOWN, "KeyError: 'prompt'")
    assert verdict(RankEnd(0, 70, own)).message == "rank 0: KeyError: 'prompt'"
    worker = "DataLoader worker (pid 7) is killed by signal: Killed."
    killed = verdict(RankEnd(0, 70, own, log_tail=worker, oom_killed=True))
    assert (killed.reason, killed.exit_code) == (Cause.OUT_OF_MEMORY, 75)


def test_preempted_is_neither_success_nor_failure() -> None:
    outcome = verdict(RankEnd(1, 143), RankEnd(0, 143, PREEMPTED), stop_requested=True)
    assert (outcome.result, outcome.exit_code, outcome.step) == ("Preempted", 143, 13)


def test_dying_of_the_requested_signal_is_preemption() -> None:
    assert verdict(RankEnd(0, -15), stop_requested=True).result == "Preempted"
    assert verdict(RankEnd(0, -15)).result == "Failed"


def test_losing_peers_while_stopping_is_preemption() -> None:
    lost = RankEnd(0, 1, said(Cause.NCCL_ERROR))
    assert verdict(lost, stop_requested=True).result == "Preempted"


def test_killed_by_a_second_interrupt_is_preemption() -> None:
    assert verdict(RankEnd(0, -9, ended_by_launcher=True), stop_requested=True).exit_code == 143


def test_a_hang_is_the_cause_whatever_the_ranks_say() -> None:
    outcome = verdict(
        RankEnd(1, 143, PREEMPTED, ended_by_launcher=True),
        RankEnd(0, -9, log_tail="File x.py, line 3", ended_by_launcher=True),
        stalled_seconds=61,
    )
    assert (outcome.reason, outcome.exit_code) == (Cause.STALLED, 75)
    assert "no new step for 61 s after step 12" in outcome.message
    assert outcome.log_tail == "File x.py, line 3"


def test_secrets_in_what_a_rank_says_are_hidden() -> None:
    outcome = verdict(RankEnd(0, 1, said(Cause.UNAUTHORIZED, "refused: token=abc123secret")))
    assert outcome.message == "refused: token=***"


def test_every_cause_has_its_exit_code() -> None:
    for cause, code in EXIT_CODE.items():
        if cause is not Cause.PREEMPTED:
            assert verdict(RankEnd(0, 1, said(cause), log_tail="x")).exit_code == code
