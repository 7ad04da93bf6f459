"""What befalls a run, and what it tells meanwhile."""

import math
import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from aligntune.api.progress import Snapshot
from aligntune.rewards.scoring import Batch
from aligntune.training.context import RunContext
from aligntune.training.preemption import Preemption


class BreakAt(TrainerCallback):
    """Weights that are trained are no numbers any more, from the beginning of a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        if state.global_step == self.step - 1:
            with torch.no_grad():
                next(p for p in more["model"].parameters() if p.requires_grad).fill_(math.nan)


class StopAt(TrainerCallback):
    """SIGTERM during a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class AtEnd(TrainerCallback):
    """Does something once the last step is made, as trackers do with their last upload."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.then()


def asked_to_stop_in_evaluation() -> RunContext:
    """Surroundings that ask a run to stop as soon as it evaluates."""
    preemption = Preemption()

    def report(snapshot: Snapshot) -> None:
        if snapshot.progress.activity == "evaluating":
            preemption.request()

    return RunContext(report=report, preemption=preemption)


def activities(trainer_of: Callable[[RunContext], Any]) -> tuple[set[str], set[str]]:
    """What a run told that it did, whenever its first reward function was called, and at any time.

    Args:
        trainer_of: Makes the trainer.
    """
    told: list[Any] = []
    while_scored: set[str] = set()
    trainer = trainer_of(RunContext(report=told.append))
    trainer.setup_rewards()
    [reward, *_] = trainer.rewards

    def scored(batch: Batch) -> Any:
        while_scored.add(told[-1].progress.activity)
        return reward.score(batch)

    trainer.rewards = [reward._replace(score=scored)]
    trainer.train()
    return while_scored, {snapshot.progress.activity for snapshot in told}
