"""What training on answers that the policy draws itself has in common."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from trl.trainer.utils import disable_dropout_in_model

from aligntune.core.config.model import ModelConfig
from aligntune.core.rl.config import GenerationConfig, UnifiedConfig
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.rewards.registry import load_rewards
from aligntune.rewards.scoring import Reward
from aligntune.training.generation import Answers
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.machine import Compute

_log = logging.getLogger(__name__)


class RolloutTrainer(Answers, LoopTrainer[UnifiedConfig], TrainerBase):
    """A trainer whose policy learns from answers that it draws and that are scored."""

    rewards: Sequence[Reward] = ()
    """What answers are scored by; empty until `setup_rewards`."""

    @property
    def sampling(self) -> GenerationConfig:
        """How answers are sampled."""
        return self.config.generation or GenerationConfig()

    def load_model(self, config: ModelConfig, computed_in: Compute) -> Any:
        """The policy, without adapters yet, and without dropout of its own.

        It would blur what is sampled, and the ratio of a token that is as likely as it was.
        """
        model = super().load_model(config, computed_in)
        disable_dropout_in_model(model)
        return model

    def setup_rewards(self) -> None:
        """Find the reward functions and load the reward model."""
        with self.progress.doing("loading"):
            self.rewards = load_rewards(self.config)
        _log.info("rewards: %s", ", ".join(f"{one.weight:g} x {one.name}" for one in self.rewards))

    def ensure_rewards(self) -> Sequence[Reward]:
        """The rewards, set up where they are not yet."""
        if not self.rewards:
            self.setup_rewards()
        return self.rewards


def read_rollout(file: Path, processes: int, device: str) -> dict[str, Any] | None:
    """What a process had saved of the rollout that it learns from.

    Args:
        file: The process's own, in a checkpoint.
        processes: How many there are now.
        device: Where tensors go.

    Returns:
        None where the rollout was shared out among another number of processes: each then has other
        rows, and a new one begins.
    """
    saved: dict[str, Any] = (
        torch.load(file, map_location=device, weights_only=True) if file.is_file() else {}
    )
    if saved.get("processes") == processes:
        return saved
    _log.warning("%s is of other processes: a new rollout begins", file.parent)
    return None
