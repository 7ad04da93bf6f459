"""Direct preference optimisation with TRL: full weights, LoRA and QLoRA.

In the names of tensors, B is pairs; S the sequences of a batch, first those of the chosen answers,
then those of the rejected; T tokens; V the vocabulary.
"""

from typing import Any

import torch
import trl
from trl.trainer.utils import selective_log_softmax

from aligntune.backends.trl.rl.ties import wins
from aligntune.core.rl.config import DPOConfig, UnifiedConfig
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.data.preferences import PreferenceEncoder
from aligntune.training.generation import Answers
from aligntune.training.loop import RunLoop
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.model_loading import load_reference


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


class _Loop(RunLoop, trl.DPOTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's DPO in our loop.

    TRL always finds the reference's log-probabilities in the batch: precomputed, or made just
    before, as the accuracy needs them too.
    """

    def __init__(self, **trainer: Any) -> None:  # noqa: ANN401
        super().__init__(**trainer)
        self.precompute_ref_logps = True

    def _prepare_dataset(self, dataset: Any, *_: object) -> Any:  # noqa: ANN401
        return dataset

    def count(self, inputs: Any) -> None:  # noqa: ANN401
        """A sample is a pair."""
        samples = inputs["input_ids"].shape[0] // 2
        self.add_to_sums(tokens=inputs["attention_mask"].sum(), samples=samples)

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # noqa: ANN401
        """TRL's loss, and its accuracy with a half for each tie."""
        if "ref_chosen_logps" not in inputs:
            reference = self.model if self.ref_model is None else self.ref_model
            chosen_B, rejected_B = self.compute_ref_log_probs(reference, inputs)
            inputs = inputs | {"ref_chosen_logps": chosen_B, "ref_rejected_logps": rejected_B}
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        won_B = wins(self._margins(outputs.logits, inputs))
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["rewards/accuracies"][-1] = self.accelerator.gather(won_B).mean().item()
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _margins(self, logits_STV: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Difference of the implicit rewards of each pair: Rafailov et al. 2023, equation 5."""
        logp_ST = selective_log_softmax(
            logits_STV[:, :-1],
            inputs["input_ids"][:, 1:],
            row_mask=inputs["completion_mask"][:, 1:],
        )
        chosen_logp_B, rejected_logp_B = logp_ST.sum(dim=1).chunk(2)
        chosen_reward_B = self.beta * (chosen_logp_B - inputs["ref_chosen_logps"])
        rejected_reward_B = self.beta * (rejected_logp_B - inputs["ref_rejected_logps"])
        margin_B: torch.Tensor = chosen_reward_B - rejected_reward_B
        return margin_B


class TRLDPOTrainer(Answers, LoopTrainer[UnifiedConfig], TrainerBase):
    """Direct preference optimisation with `trl.DPOTrainer`."""

    method = "DPO"

    def make_encoder(self) -> PreferenceEncoder:
        """Rows become the token ids of a prompt and two answers."""
        return PreferenceEncoder(self.tokenizer, max_length=self.max_length)

    def make_arguments(self, shared: dict[str, Any]) -> trl.DPOConfig:
        """Every argument that TRL is given."""
        return trl_arguments(self.config, shared)

    def make_loop(self, surroundings: dict[str, Any]) -> RunLoop:
        """TRL's DPO in our loop, with the reference and what is precomputed with it."""
        with self.progress.doing("loading"):
            reference = None if self._is_its_own_reference() else self._load_reference()
            return _Loop(**surroundings, ref_model=reference, peft_config=self.adapters())

    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure the loss, the rewards' accuracy and margin, and log-probabilities in nats."""
        loop: Any = self.need_loop()
        if dataset is not None and loop.ref_model is None and self.config.model.tuning == "full":
            # precomputed log-probabilities belong to other rows, and the policy has moved on
            reference = self._load_reference().to(self.arguments.device)
            loop.ref_model = loop.accelerator.prepare_model(reference, evaluation_mode=True)
        return super().evaluate(dataset)

    def _is_its_own_reference(self) -> bool:
        """No second model is needed: adapters can be switched off, or the first step is to come."""
        precomputed = (self.config.dpo or DPOConfig()).precompute_reference
        lora = self.config.model.tuning == "lora"
        return self.config.reference_model is None and (lora or precomputed)

    def _load_reference(self) -> Any:  # noqa: ANN401 - a transformers model
        """The frozen model, kept in the form of the policy, so that both begin alike."""
        config = self.config
        return load_reference(
            config.reference_model, config.model, self.computed_in, tokens=len(self.tokenizer)
        )
