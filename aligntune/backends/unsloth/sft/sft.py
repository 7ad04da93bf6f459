"""Supervised fine-tuning on Unsloth's models."""

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.backends.unsloth.fast_model import FastModel
from aligntune.core.sft.config import SFTConfig


class UnslothSFTTrainer(TRLSFTTrainer, FastModel[SFTConfig]):
    """Supervised fine-tuning of Unsloth's model with `trl.SFTTrainer`."""
