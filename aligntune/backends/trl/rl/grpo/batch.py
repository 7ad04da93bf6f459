"""One GRPO step in TRL's numbers: from prompts and completions to batches and accumulation."""

from typing import NamedTuple

from aligntune.core.config.training import TrainConfig
from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import GRPOConfig


class Split(NamedTuple):
    """How the completions of one optimizer step are split."""

    per_device: int
    """Completions per process and forward pass."""
    accumulation: int
    """Forward passes per optimizer step."""


def split(grpo: GRPOConfig, train: TrainConfig, processes: int) -> Split:
    """Split `promptsPerStep` x `numGenerations` completions over processes and forward passes.

    Raises:
        ConfigError: They cannot be split evenly, or another accumulation is asked for.
    """
    completions = grpo.prompts_per_step * grpo.num_generations
    per_device = train.per_device_batch_size
    accumulation, left = divmod(completions, processes * per_device)
    if left:
        raise ConfigError(
            f"grpo: promptsPerStep {grpo.prompts_per_step} x numGenerations {grpo.num_generations}"
            f" = {completions} completions a step cannot be split evenly over {processes} processes"
            f" x train.perDeviceBatchSize {per_device}; change one of them"
        )
    if train.gradient_accumulation_steps not in (1, accumulation):
        raise ConfigError(
            f"train.gradientAccumulationSteps {train.gradient_accumulation_steps}: with grpo it"
            f" follows from promptsPerStep x numGenerations / (processes x perDeviceBatchSize) ="
            f" {accumulation}; remove it"
        )
    return Split(per_device, accumulation)
