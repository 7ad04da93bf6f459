"""How the attempt ended, from how each rank of this pod ended."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import EXIT_CODE, ExitCode
from aligntune.api.progress import LONGEST_TEXT, Outcome, Snapshot
from aligntune.core.scrub import scrub
from aligntune.pod.diagnosis import diagnose


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    returncode: int
    """As subprocess has it: the exit code, or minus the signal."""
    outcome: Outcome | None = None
    """What it said itself."""
    log_tail: str = ""
    """Its last lines, secrets hidden."""
    oom_killed: bool = False
    """The kernel killed a process of this container for want of memory while it ran."""
    ended_by_launcher: bool = False
    """It was told to end because another failed or training hung."""


SYMPTOMS: dict[Cause | None, int] = {Cause.UNKNOWN: 1, Cause.NCCL_ERROR: 2}
"""Causes that may come of another rank's; the higher the number, the surer."""

PREEMPTED = Outcome(
    result="Preempted",
    reason=Cause.PREEMPTED,
    message="stopped on request",
    exit_code=ExitCode.PREEMPTED,
)


def failure(cause: Cause, message: str) -> Outcome:
    """The outcome of a failure, with the exit code that stands for its cause."""
    return Outcome(
        result="Failed",
        reason=cause,
        message=message[:LONGEST_TEXT],
        exit_code=EXIT_CODE.get(cause, ExitCode.SOFTWARE),
    )


def failed(end: RankEnd) -> bool:
    """Whether this rank's end is a failure, which the other ranks would wait for in vain."""
    if end.outcome is not None:
        return end.outcome.result == "Failed"
    return end.returncode != ExitCode.PREEMPTED


def conclude(
    ends: Sequence[RankEnd], *, last: Snapshot, stop_requested: bool, stalled_seconds: int | None
) -> Outcome:
    """The attempt's outcome.

    Args:
        ends: every rank of this pod, in the order in which they ended.
        last: the newest report of progress.
        stop_requested: SIGTERM or an interrupt came from outside.
        stalled_seconds: how long there was no step when the attempt was ended for it, else None.
    """
    if stalled_seconds is not None:
        first = min(ends, key=lambda end: end.rank)
        message = (
            f"no new step for {stalled_seconds} s after step {last.progress.step}; the Python"
            " stacks of every rank are in its log"
        )
        return _complete(failure(Cause.STALLED, message), first, last)

    said = [
        (end, _outcome_of(end, stop_requested=stop_requested))
        for end in ends
        if end.outcome is not None or not end.ended_by_launcher
    ]
    failures = [(end, outcome) for end, outcome in said if outcome.result == "Failed"]
    if failures:
        # Ranks that lose a peer, or what it wrote, fail as well: theirs is believed last.
        end, outcome = min(failures, key=lambda pair: SYMPTOMS.get(pair[1].reason, 0))
        return _complete(outcome, end, last)
    said.sort(key=lambda pair: (pair[1].result == "Succeeded", pair[0].rank))
    if not said:  # a second interrupt killed them all
        return _complete(PREEMPTED, ends[0], last)
    end, outcome = said[0]
    return _complete(outcome, end, last)


def _outcome_of(end: RankEnd, *, stop_requested: bool) -> Outcome:
    outcome = end.outcome or _unsaid(end, stop_requested=stop_requested)
    if outcome.result == "Failed" and outcome.reason in (None, Cause.UNKNOWN):
        outcome = _explained(outcome, end)
    if stop_requested and outcome.reason is Cause.NCCL_ERROR:
        return PREEMPTED  # the peers on other nodes were stopped as well, a moment earlier
    return outcome


def _unsaid(end: RankEnd, *, stop_requested: bool) -> Outcome:
    """What a rank would have said that ended without a word."""
    died_of_request = stop_requested and -end.returncode in (signal.SIGTERM, signal.SIGINT)
    if died_of_request or end.returncode == ExitCode.PREEMPTED:
        return PREEMPTED
    if end.returncode == ExitCode.DONE:
        return failure(Cause.UNKNOWN, "ended without saying how; look in its log for what ended it")
    return failure(Cause.UNKNOWN, "")


def _explained(outcome: Outcome, end: RankEnd) -> Outcome:
    """A failure of unknown cause, with what status and log give away."""
    cause, message = diagnose(end.returncode, end.log_tail, oom_killed=end.oom_killed)
    if cause is Cause.UNKNOWN and outcome.message:
        message = outcome.message
    return outcome.model_copy(update={"reason": cause, "message": f"rank {end.rank}: {message}"})


def _complete(outcome: Outcome, end: RankEnd, last: Snapshot) -> Outcome:
    """Fill in what the rank did not say from the last report and from its log."""
    return outcome.model_copy(
        update={
            "exit_code": _exit_code(outcome),
            "message": scrub(outcome.message)[:LONGEST_TEXT],
            "step": outcome.step or last.progress.step,
            "total_steps": outcome.total_steps or last.progress.total_steps,
            "metrics": outcome.metrics or last.metrics,
            "checkpoint": outcome.checkpoint or last.checkpoint,
            "log_tail": (scrub(outcome.log_tail) or end.log_tail)[-LONGEST_TEXT:]
            if outcome.result == "Failed"
            else "",
        }
    )


def _exit_code(outcome: Outcome) -> ExitCode:
    match outcome.result:
        case "Succeeded":
            return ExitCode.DONE
        case "Preempted":
            return ExitCode.PREEMPTED
        case "Failed":
            return EXIT_CODE.get(outcome.reason or Cause.UNKNOWN, ExitCode.SOFTWARE)
