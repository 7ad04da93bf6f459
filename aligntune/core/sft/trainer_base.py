"""The lifecycle of a supervised run, the same for every backend and task."""

from aligntune.core.lifecycle import Lifecycle
from aligntune.core.sft.config import SFTConfig


class SFTTrainerBase(Lifecycle[SFTConfig]):
    """Trains one model on one `SFTConfig`: on next tokens, or on classes."""
