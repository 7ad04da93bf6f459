"""Where a run stands: the state that every trainer keeps, supervised or RL."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class TrainingState:
    """Where a run stands. Times are seconds since the epoch; None: not yet."""

    step: int = 0
    """Optimizer steps done, over all attempts."""
    epoch: float = 0.0
    """Passes over the data done."""
    best_metric: float | None = None
    """The best evaluation so far: the lowest loss, or the highest reward."""
    checkpoint_path: Path | None = None
    """The newest complete checkpoint."""
    start_time: float | None = None
    """When this attempt began to train."""
    last_eval_time: float | None = None
    """When the last evaluation ended."""
    last_save_time: float | None = None
    """When the newest checkpoint was complete."""

    def started(self, step: int, epoch: float, now: float) -> None:
        """Training begins, after `step` steps and `epoch` passes of earlier attempts."""
        self.step = step
        self.epoch = epoch
        self.start_time = now

    def stepped(self, step: int, epoch: float) -> None:
        """An optimizer step is done."""
        self.step = step
        self.epoch = epoch

    def evaluated(self, metric: float | None, now: float, *, greater_is_better: bool) -> None:
        """An evaluation is done; `metric` is what the best model is chosen by, where it has it."""
        self.last_eval_time = now
        if metric is None:
            return
        best = self.best_metric
        if best is None or (metric > best if greater_is_better else metric < best):
            self.best_metric = metric

    def saved(self, path: Path, now: float) -> None:
        """A checkpoint is complete."""
        self.checkpoint_path = path
        self.last_save_time = now
