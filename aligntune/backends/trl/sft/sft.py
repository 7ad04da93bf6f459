"""Supervised fine-tuning with TRL: full weights, LoRA and QLoRA."""

import math
from typing import Any

import torch
import trl
from transformers import PretrainedConfig

from aligntune.core.config.model import LoraConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.core.sft.logits import needs_whole_logits
from aligntune.core.sft.trainer_base import SFTTrainerBase
from aligntune.data.rendering import IGNORED
from aligntune.data.supervised import SupervisedEncoder
from aligntune.training.generation import Answers
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.loop_trainer import LoopTrainer


def trl_arguments(
    config: SFTConfig, shared: dict[str, Any], max_length: int, architecture: PretrainedConfig
) -> trl.SFTConfig:
    """What TRL is told, besides what all methods share.

    Rows come tokenised, cut and labelled, so TRL has nothing to prepare.
    """
    train = config.train
    targets = (config.model.lora or LoraConfig()).target_modules
    whole_logits = (
        train.liger_kernel
        or "lm_head" in targets
        or needs_whole_logits(architecture.get_text_config().to_dict())
    )
    return trl.SFTConfig(
        **shared,
        max_length=max_length if train.packing else None,
        packing=train.packing,
        padding_free=train.padding_free,
        completion_only_loss=False,
        use_liger_kernel=train.liger_kernel,
        loss_type="nll" if whole_logits else "chunked_nll",
    )


class SFTLoop(RunLoop, trl.SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's SFT in our loop."""

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Measure a batch, which counts by its tokens: transformers weighs all batches alike."""
        tokens = self._get_num_items_in_batch([inputs], self.args.device)
        if tokens is None:  # the model divides by the tokens of its own process
            tokens = inputs["labels"][..., 1:].ne(IGNORED).sum()
        loss, *rest = super().prediction_step(model, inputs, *args, **kwargs)
        self._nats_and_tokens += torch.stack((loss * tokens, tokens.to(loss)))
        return loss, *rest

    def evaluation_loop(
        self,
        *args: Any,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> Any:
        """Measure loss (nats per token), accuracy of the next token, entropy and perplexity."""
        self._nats_and_tokens = torch.zeros(2, device=self.args.device)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        nats, tokens = self.accelerator.reduce(self._nats_and_tokens, "sum").tolist()
        loss = nats / tokens
        output.metrics[f"{metric_key_prefix}_loss"] = loss
        output.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(loss, 700))
        return output


class TRLSFTTrainer(Answers, LoopTrainer[SFTConfig], SFTTrainerBase):
    """Supervised fine-tuning with `trl.SFTTrainer`."""

    method = "SFT"

    def make_encoder(self) -> SupervisedEncoder:
        """Rows become token ids, and labels where they count in the loss."""
        return SupervisedEncoder(
            self.tokenizer, max_length=self.max_length, loss_on=self.config.train.loss_on
        )

    def make_arguments(self, shared: dict[str, Any]) -> trl.SFTConfig:
        """Every argument that TRL is given."""
        return trl_arguments(self.config, shared, self.max_length, self.model.config)

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """TRL's SFT in our loop."""
        return SFTLoop(**surroundings, peft_config=self.adapters())
