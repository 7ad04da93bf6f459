"""When a policy has left its reference model for good."""

import math
from typing import NamedTuple

from aligntune.core.errors import LossDivergedError

PATIENCE = 3
"""Measurements in a row above the limit that end a run. 3: one may be bad luck with few answers."""


class KLGuard(NamedTuple):
    """Ends a run whose policy is far from the reference model, and stays there."""

    limit: float
    """Nats per token."""
    field: str
    """Where the config says so."""
    remedy: str
    """What else could be changed, besides the learning rate and the limit."""
    beyond: int = 0
    """Measurements in a row above the limit."""

    def after(self, kl: float, step: int) -> "KLGuard":
        """The guard after a measurement.

        Args:
            kl: Mean nats per token of a rollout or batch.
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
                f"step {step}: the policy is {kl:.3g} nats per token away from the reference, above"
                f" {self.field} {self.limit:g} {beyond} times in a row; lower"
                f" train.learningRate, {self.remedy}, or raise the limit if answers are meant to"
                " differ so much"
            )
        return self._replace(beyond=beyond)
