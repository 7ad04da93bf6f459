"""The lifecycle of an RL run, and the state that every run keeps."""

from aligntune.core.lifecycle import Lifecycle
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.training_state import TrainingState

__all__ = ["TrainerBase", "TrainingState"]


class TrainerBase(Lifecycle[UnifiedConfig]):
    """Aligns one model on one `UnifiedConfig`: by preferences, or by rewards."""

    def setup(self) -> None:
        """Everything that comes before the first step, in order."""
        super().setup()
        self.setup_rewards()

    def setup_rewards(self) -> None:
        """Find the reward functions and load the reward model, for algorithms that sample.

        Raises:
            ConfigError: A reward function is unknown, or does not take its parameters.
            ModelNotFoundError, UnauthorizedError: There is no such model, or not for this token.
        """
