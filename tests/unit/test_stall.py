from aligntune.api.progress import Activity, Progress
from aligntune.pod.stall import STACKS_SECONDS, StallAction, StallWatch


def report(step: int, activity: Activity = "training") -> Progress:
    return Progress(step=step, activity=activity)


def watch(*, limit: float | None = 60, ends_attempt: bool = True) -> StallWatch:
    return StallWatch(limit_seconds=limit, ends_attempt=ends_attempt)


def test_steps_keep_it_quiet() -> None:
    seen = watch().saw(report(1), now=0).saw(report(2), now=59)
    assert seen.action(now=118) is StallAction.NONE
    assert seen.seconds_stalled(now=118) is None


def test_reports_without_a_new_step_do_not_count_as_progress() -> None:
    seen = watch().saw(report(1), now=0).saw(report(1), now=59)
    assert seen.action(now=60) is StallAction.ASK_FOR_STACKS
    assert seen.seconds_stalled(now=61) == 61


def test_loading_evaluating_and_saving_take_as_long_as_they_need() -> None:
    for activity in ("starting", "loading", "evaluating", "checkpointing", "generating", "saving"):
        seen = watch().saw(report(1), now=0).saw(report(1, activity), now=1)
        assert seen.action(now=10_000) is StallAction.NONE
        assert seen.saw(report(1), now=10_000).action(now=10_059) is StallAction.NONE


def test_stacks_are_asked_for_once_and_the_attempt_ends_after_them() -> None:
    seen = watch().saw(report(1), now=0).asked_for_stacks(now=60)
    assert seen.action(now=60) is StallAction.NONE
    assert seen.action(now=60 + STACKS_SECONDS) is StallAction.END_ATTEMPT


def test_a_step_after_the_stacks_saves_the_attempt() -> None:
    seen = watch().saw(report(1), now=0).asked_for_stacks(now=60).saw(report(2), now=61)
    assert seen.action(now=60 + STACKS_SECONDS) is StallAction.NONE
    assert seen.action(now=61 + 60) is StallAction.ASK_FOR_STACKS


def test_a_hang_that_is_only_reported_never_ends_the_attempt() -> None:
    seen = watch(ends_attempt=False).saw(report(1), now=0).asked_for_stacks(now=60)
    assert seen.action(now=10_000) is StallAction.NONE
    assert seen.seconds_stalled(now=10_000) == 10_000


def test_without_a_limit_hangs_are_not_looked_for() -> None:
    assert watch(limit=None).saw(report(1), now=0).action(now=1e9) is StallAction.NONE
