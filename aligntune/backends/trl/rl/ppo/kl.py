"""How dear it is to leave the reference."""

from typing import NamedTuple

from aligntune.core.rl.config import KLConfig

LARGEST_ERROR = 0.2
"""The relative error that moves the coefficient at most (Ziegler et al. 2019)."""


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
