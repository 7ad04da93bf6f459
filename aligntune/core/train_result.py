"""What a training run came to."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainResult:
    """What `train()` returns."""

    step: int
    """Optimizer steps done, over all attempts."""
    total_steps: int
    """Optimizer steps of the whole run."""
    epoch: float
    """Passes over the data done."""
    train_loss: float
    """Mean loss over all steps, earlier attempts included; NaN when there was no step."""
    metrics: dict[str, float]
    """The last value of each metric, by its snake_case name."""
    runtime_seconds: float
    """Wall time of this attempt's steps, evaluations and checkpoints."""
    samples: int
    """Sequences trained on, over all processes and attempts."""
    tokens: int
    """Tokens trained on, without padding, over all processes and attempts."""
    samples_per_second: float
    """Sequences trained on per second of this attempt, over all processes."""
    tokens_per_second: float
    """Tokens trained on per second of this attempt, over all processes, without padding."""
    best_metric: float | None
    """The best evaluation, by loss or reward; None where nothing was evaluated."""
    checkpoint_path: Path | None
    """The newest complete checkpoint."""
    stopped_early: bool
    """The evaluation loss did not get better for `evaluation.earlyStoppingPatience` times."""
    preempted: bool
    """Stopped on request before the last step; a checkpoint was saved."""
