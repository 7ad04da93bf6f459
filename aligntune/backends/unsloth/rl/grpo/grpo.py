"""Group relative policy optimisation on Unsloth's models."""

from aligntune.backends.trl.rl.grpo.grpo import TRLGRPOTrainer
from aligntune.backends.unsloth.fast_model import FastModel
from aligntune.core.rl.config import UnifiedConfig


class UnslothGRPOTrainer(TRLGRPOTrainer, FastModel[UnifiedConfig]):
    """Group relative policy optimisation of Unsloth's model with `trl.GRPOTrainer`."""
