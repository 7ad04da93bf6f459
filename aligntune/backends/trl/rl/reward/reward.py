"""Reward models with TRL, trained on pairs: full weights, LoRA and QLoRA.

In the names of tensors, B is pairs; S the conversations of a batch, first the chosen, then the
rejected.
"""

from collections.abc import Sequence
from typing import Any

import torch
import trl

from aligntune.backends.trl.rl.pairs import PairLoop, wins
from aligntune.core.config.model import ModelConfig
from aligntune.core.conversation import Question, is_one
from aligntune.core.rl.config import RewardConfig, UnifiedConfig
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.data.preferences import ComparisonEncoder
from aligntune.data.rendering import render
from aligntune.training.inference import inference
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.machine import Compute
from aligntune.training.model_loading import load_classifier


def trl_arguments(config: UnifiedConfig, shared: dict[str, Any]) -> trl.RewardConfig:
    """What TRL is told, besides what all methods share.

    Rows come tokenised and none is too long, so TRL has nothing to prepare.
    """
    reward = config.reward or RewardConfig()
    return trl.RewardConfig(
        **shared,
        max_length=None,
        center_rewards_coefficient=reward.centering_coefficient or None,
        disable_dropout=True,
    )


class RewardLoop(PairLoop, trl.RewardTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's reward modelling in our loop."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """TRL's loss; accuracy, with a half for each tie, and margin by the names of DPO."""
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        score_S = outputs.logits.detach().squeeze(-1)
        chosen_B, rejected_B = score_S.chunk(2)
        won_B = self.accelerator.gather(wins(chosen_B - rejected_B))
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics.pop("accuracy")
        metrics["rewards/accuracies"].append(won_B.mean().item())
        metrics["rewards/margins"] += metrics.pop("margin")
        return (loss, outputs) if return_outputs else loss


class TRLRewardTrainer(LoopTrainer[UnifiedConfig], TrainerBase):
    """A reward model with `trl.RewardTrainer`: one number for a conversation, higher is better."""

    method = "reward modelling"
    adapted_task = "SEQ_CLS"

    def load_model(self, config: ModelConfig, computed_in: Compute) -> Any:
        """The model with a head of one output in place of its next-token head."""
        return load_classifier(config, computed_in, self.tokenizer.pad_token_id, num_labels=1)

    def make_encoder(self) -> ComparisonEncoder:
        """Rows become the token ids of two conversations."""
        return ComparisonEncoder(self.tokenizer, max_length=self.max_length)

    def make_arguments(self, shared: dict[str, Any]) -> trl.RewardConfig:
        """Every argument that TRL is given."""
        return trl_arguments(self.config, shared)

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """TRL's reward modelling in our loop."""
        return RewardLoop(**surroundings, peft_config=self.adapters())

    def predict(self, conversations: Question | Sequence[Question]) -> float | list[float]:
        """Score one conversation or each of a list; only differences mean something.

        Args:
            conversations: Messages, of which the last is the answer that is judged; or a text that
                has the form of the chat template already.
        """
        self.ensure_model()
        single = is_one(conversations)
        asked: Any = [conversations] if single else conversations
        texts = [one if isinstance(one, str) else render(self.tokenizer, one) for one in asked]
        size = self.arguments.per_device_eval_batch_size
        scores = [
            score
            for start in range(0, len(texts), size)
            for score in self._scores(texts[start : start + size])
        ]
        return scores[0] if single else scores

    def _scores(self, texts: Sequence[str]) -> list[float]:
        model = self.model
        batch = self.tokenizer(
            texts,
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(model.device)
        with inference(model, self.computed_in):
            scores: list[float] = model(**batch).logits.squeeze(-1).tolist()
        return scores
