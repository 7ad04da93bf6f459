"""The step model: what a rollout, an epoch, a minibatch and an optimizer step are to each other.

optimizer steps = rollouts x ppo.epochs x ppo.minibatches
ppo.rolloutBatchSize = ppo.minibatches x accumulation x processes x train.perDeviceBatchSize
"""

import math
from typing import NamedTuple

from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import PPOConfig, UnifiedConfig


class StepModel(NamedTuple):
    """The numbers of a run that follow from its config and the number of processes."""

    prompts: int
    """Of a rollout, over all processes."""
    processes: int
    epochs: int
    minibatches: int
    batch_size: int
    """Sequences per process and forward pass."""

    @classmethod
    def of(cls, config: UnifiedConfig, processes: int) -> "StepModel":
        """The step model of a run.

        Raises:
            ConfigError: A rollout cannot be cut into equal forward passes.
        """
        ppo = config.ppo or PPOConfig()
        size = config.train.per_device_batch_size
        prompts, part = ppo.rollout_batch_size, ppo.minibatches * processes * size
        if prompts % part:
            fitting = {part * max(prompts // part, 1), part * (prompts // part + 1)}
            raise ConfigError(
                f"ppo.rolloutBatchSize: {prompts} prompts cannot be cut into {ppo.minibatches}"
                f" minibatches x {processes} processes x {size} sequences"
                f" (train.perDeviceBatchSize); use {' or '.join(map(str, sorted(fitting)))}, or"
                " change the others"
            )
        return cls(prompts, processes, ppo.epochs, ppo.minibatches, size)

    @property
    def accumulation(self) -> int:
        """Forward passes of a process per optimizer step."""
        return self.prompts // (self.minibatches * self.processes * self.batch_size)

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps."""
        return self.epochs * self.minibatches

    @property
    def passes_per_rollout(self) -> int:
        """Forward passes of a process."""
        return self.steps_per_rollout * self.accumulation

    def passes_over(self, rows: int, step: int) -> float:
        """How often each of `rows` prompts was answered after `step` optimizer steps."""
        return step / self.steps_per_rollout * self.prompts / rows

    def total(self, config: UnifiedConfig, rows: int | None) -> int:
        """Optimizer steps of the whole run.

        Args:
            config: Says how long: `train.maxSteps`, or else `train.epochs`.
            rows: Prompts in the data; None for a stream.

        Raises:
            ConfigError: `train.maxSteps` would end in the middle of a rollout.
        """
        steps, asked = self.steps_per_rollout, config.train.max_steps
        if asked is None:
            assert rows is not None  # noqa: S101 - a stream without maxSteps is refused
            return math.ceil(config.train.epochs * rows / self.prompts) * steps
        if asked % steps:
            fitting = {steps * max(asked // steps, 1), steps * (asked // steps + 1)}
            raise ConfigError(
                f"train.maxSteps: {asked} steps are no whole number of rollouts of {steps}"
                f" (ppo.epochs {self.epochs} x ppo.minibatches {self.minibatches}); use"
                f" {' or '.join(map(str, sorted(fitting)))}"
            )
        return asked
