"""How dear it is to leave the reference, and when a run has left it for good."""

import math
from typing import NamedTuple

from aligntune.core.errors import LossDivergedError
from aligntune.core.rl.config import KLConfig

LARGEST_ERROR = 0.2
"""The relative error that moves the coefficient at most (Ziegler et al. 2019)."""
PATIENCE = 3
"""Rollouts in a row above the limit that end a run. 3: one may be bad luck with few answers."""


class KLController(NamedTuple):
    """The coefficient of the KL penalty."""

    coefficient: float
    target: float | None
    """Nats per answer that the coefficient is steered to; None: it stays fixed."""
    horizon: int
    """Answers over which it is steered."""

    @classmethod
    def of(cls, config: KLConfig) -> "KLController":
        """The controller before the first rollout."""
        return cls(config.coefficient, config.target, config.horizon)

    def after(self, kl: float, answers: int) -> "KLController":
        """The controller after a rollout: Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.

            e = clip((kl - target) / target, -0.2, 0.2)
            coefficient <- coefficient (1 + e answers / horizon)

        Args:
            kl: Mean nats per answer in the rollout.
            answers: How many answers it had, over all processes.
        """
        if self.target is None:
            return self
        error = (kl - self.target) / self.target
        error = min(max(error, -LARGEST_ERROR), LARGEST_ERROR)
        return self._replace(coefficient=self.coefficient * (1 + error * answers / self.horizon))


class KLGuard(NamedTuple):
    """Ends a run whose policy has left the reference model far behind."""

    limit: float
    """Nats per token."""
    beyond: int = 0
    """Rollouts in a row beyond the limit."""

    def after(self, kl: float, step: int) -> "KLGuard":
        """The guard after a rollout.

        Args:
            kl: Mean nats per token in the rollout.
            step: Optimizer steps done.

        Raises:
            LossDivergedError: It was the last of too many in a row, or `kl` is no finite number.
        """
        if not math.isfinite(kl):
            raise LossDivergedError(
                f"step {step}: the policy's log-probabilities are no longer finite numbers; lower"
                " train.learningRate (or train.maxGradNorm)"
            )
        beyond = self.beyond + 1 if kl > self.limit else 0
        if beyond >= PATIENCE:
            raise LossDivergedError(
                f"step {step}: the policy is {kl:.3g} nats per token away from the reference, for"
                f" {beyond} rollouts in a row beyond ppo.klLimit ({self.limit:g}); lower"
                " train.learningRate, raise ppo.kl.coefficient, or raise ppo.klLimit if answers are"
                " meant to differ so much"
            )
        return self._replace(beyond=beyond)
