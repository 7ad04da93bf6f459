"""Direct preference optimisation on Unsloth's models."""

from aligntune.backends.trl.rl.dpo.dpo import TRLDPOTrainer
from aligntune.backends.unsloth.fast_model import FastModel
from aligntune.core.rl.config import UnifiedConfig
from aligntune.training.loop import RunLoop, Surroundings

COPY = "ref"
"""TRL's name for a copy of adapters that a model comes with."""


class UnslothDPOTrainer(TRLDPOTrainer, FastModel[UnifiedConfig]):
    """Direct preference optimisation of Unsloth's model with `trl.DPOTrainer`."""

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """TRL's DPO in our loop; the reference is the model without adapters, not with a copy."""
        loop = super().make_loop(surroundings)
        if COPY in getattr(loop.model, "peft_config", {}):
            loop.model.delete_adapter(COPY)
        return loop
