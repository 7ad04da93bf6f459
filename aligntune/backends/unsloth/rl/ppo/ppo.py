"""Proximal policy optimisation on Unsloth's models."""

from aligntune.backends.trl.rl.ppo.ppo import TRLPPOTrainer
from aligntune.backends.unsloth.fast_model import FastModel
from aligntune.core.rl.config import UnifiedConfig


class UnslothPPOTrainer(TRLPPOTrainer, FastModel[UnifiedConfig]):
    """Our own proximal policy optimisation of Unsloth's model."""
