"""Whether training hangs: no new step for too long, while the trainer says that it trains."""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Self

from aligntune.api.progress import Progress

STACKS_SECONDS = 2.0
"""Time for the ranks to write their stacks before the attempt is ended. 2: it takes milliseconds,
but 64 ranks share the disk."""


class StallAction(Enum):
    """What to do about a hang now."""

    NONE = auto()
    ASK_FOR_STACKS = auto()
    END_ATTEMPT = auto()


@dataclass(frozen=True)
class StallWatch:
    """What is known of the steps made; every time is in seconds on one monotonic clock.

    Only the activity `training` counts: loading, evaluating, generating, checkpointing and saving
    make no steps and may take as long as they need.
    """

    limit_seconds: float | None
    """Longest time without a step. None: hangs are not looked for."""
    ends_attempt: bool
    """Whether a hang ends the attempt, or is only reported."""
    training: bool = False
    step: int = 0
    last_step_at: float = 0.0
    stacks_at: float | None = None
    """When the ranks were asked for their stacks in this hang."""

    def saw(self, progress: Progress, now: float) -> Self:
        """What is known after a report."""
        training = progress.activity == "training"
        if training and self.training and progress.step == self.step:
            return self
        return replace(
            self, training=training, step=progress.step, last_step_at=now, stacks_at=None
        )

    def asked_for_stacks(self, now: float) -> Self:
        """What is known after the ranks were asked for their stacks."""
        return replace(self, stacks_at=now)

    def seconds_stalled(self, now: float) -> int | None:
        """Seconds since the last step, once they exceed the limit; None while all is well."""
        without_step = now - self.last_step_at
        if self.limit_seconds is None or not self.training or without_step < self.limit_seconds:
            return None
        return int(without_step)

    def action(self, now: float) -> StallAction:
        """What to do now: ask for stacks once per hang, then end the attempt if it is to end."""
        if self.seconds_stalled(now) is None:
            return StallAction.NONE
        if self.stacks_at is None:
            return StallAction.ASK_FOR_STACKS
        if self.ends_attempt and now - self.stacks_at >= STACKS_SECONDS:
            return StallAction.END_ATTEMPT
        return StallAction.NONE
