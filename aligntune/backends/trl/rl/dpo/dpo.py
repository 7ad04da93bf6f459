"""Direct preference optimisation with TRL: full weights, LoRA and QLoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl
from accelerate.utils import convert_outputs_to_fp32
from datasets import Dataset

from aligntune.backends.trl.rl.pairs import PairLoop, wins
from aligntune.core.rl.config import DPOConfig, UnifiedConfig
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.data.preferences import PreferenceEncoder
from aligntune.training.generation import Answers
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.reference import load_reference

MARGINS = -3
"""Where the pairs' margins stand among what TRL's loss gathers: before the two log-probabilities.
A margin is the difference of implicit rewards (Rafailov et al. 2023, equation 5)."""


def trl_arguments(config: UnifiedConfig, shared: dict[str, Any]) -> trl.DPOConfig:
    """What TRL is told, besides what all methods share.

    Rows come tokenised and cut, so TRL has nothing to prepare.
    """
    dpo = config.dpo or DPOConfig()
    return trl.DPOConfig(
        **shared,
        max_length=None,
        beta=dpo.beta,
        loss_type=[dpo.loss],
        label_smoothing=dpo.label_smoothing,
        precompute_ref_log_probs=dpo.precompute_reference,
        disable_dropout=True,
    )


class DPOLoop(PairLoop, trl.DPOTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's DPO in our loop."""

    _precompute_model_hash: str  # TRL does not tell its type

    def _prepare_dataset(self, dataset: Any, *_: object) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *arguments: Any) -> Dataset:
        """TRL's, whose cache would give what was computed in another precision."""
        weights = self._precompute_model_hash
        self._precompute_model_hash = f"{weights} {self.accelerator.mixed_precision}"
        rows = super()._precompute_ref_logps(dataset, *arguments)
        self._precompute_model_hash = weights
        return rows

    def compute_ref_log_probs(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """TRL's, computed like those of the policy; it precomputes on a model not prepared yet."""
        with self.accelerator.autocast():
            forward = convert_outputs_to_fp32(model.__call__)
            chosen_B, rejected_B = super().compute_ref_log_probs(forward, inputs)
        return chosen_B, rejected_B

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *more: Any,
        **named: Any,
    ) -> Any:
        """TRL's loss, and its accuracy with a half for each tie."""
        self.precompute_ref_logps = "ref_chosen_logps" in inputs  # rows that come later lack it
        with _gathered(self.accelerator) as gathered:
            loss = super().compute_loss(model, inputs, *more, **named)
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["rewards/accuracies"][-1] = wins(gathered[MARGINS]).mean().item()
        return loss


@contextmanager
def _gathered(accelerator: Any) -> Iterator[list[torch.Tensor]]:
    """What is gathered from all processes meanwhile, in its order; so it need not be again."""
    seen: list[torch.Tensor] = []
    gather = accelerator.gather

    def gather_and_keep(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(gather(tensor))
        return seen[-1]

    accelerator.gather = gather_and_keep
    try:
        yield seen
    finally:
        del accelerator.gather


class TRLDPOTrainer(Answers, LoopTrainer[UnifiedConfig], TrainerBase):
    """Direct preference optimisation with `trl.DPOTrainer`."""

    method = "DPO"

    def make_encoder(self) -> PreferenceEncoder:
        """Rows become the token ids of a prompt and two answers."""
        return PreferenceEncoder(self.tokenizer, max_length=self.max_length)

    def make_arguments(self, shared: dict[str, Any]) -> trl.DPOConfig:
        """Every argument that TRL is given."""
        return trl_arguments(self.config, shared)

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """TRL's DPO in our loop, with the reference and what is precomputed with it."""
        with self.progress.doing("loading"):
            reference = self._load_reference() if self.config.loads_reference else None
            return DPOLoop(**surroundings, ref_model=reference, peft_config=self.adapters())

    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure the loss, the rewards' accuracy and margin, and log-probabilities in nats."""
        loop: Any = self.ensure_loop()
        if dataset is not None and loop.ref_model is None and self.config.model.tuning == "full":
            # precomputed log-probabilities belong to other rows, and the policy has moved on
            reference = self._load_reference().to(self.arguments.device)
            loop.ref_model = loop.accelerator.prepare_model(reference, evaluation_mode=True)
        return super().evaluate(dataset)

    def _load_reference(self) -> Any:
        """The frozen model, kept in the form of the policy, so that both begin alike."""
        config = self.config
        return load_reference(
            config.reference_model, config.model, self.computed_in, tokens=len(self.tokenizer)
        )
