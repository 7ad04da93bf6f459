"""The reward of a model that was trained to score answers."""

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from aligntune.core.config.model import ModelRef
from aligntune.core.conversation import Message
from aligntune.core.errors import ConfigError, DataError
from aligntune.data.rendering import plain_chat_template
from aligntune.rewards.scoring import Batch
from aligntune.training.adapters import adapter_folder
from aligntune.training.context import local_rank
from aligntune.training.machine import DTYPES, Compute, this_machine
from aligntune.training.model_loading import from_pretrained, learned_positions, positions


class RewardModel:
    """A sequence classifier with one output: how good the last turn of a conversation is.

    It reads text in its own chat template and tokenizer, whatever the policy's are.
    """

    def __init__(self, config: ModelRef, computed_in: Compute, *, batch_size: int = 16) -> None:
        """Load the model, frozen, onto this process's device.

        Args:
            config: Names the model; adapters find their base model by themselves.
            computed_in: What weights are kept and computed in.
            batch_size: Conversations per forward pass.

        Raises:
            ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
            ConfigError: It has not exactly one output.
        """
        name, field = config.name, "rewardModel"
        auto, more = AutoModelForSequenceClassification, {}
        adapters = adapter_folder(config, field)
        if adapters is not None:
            auto, more = AutoPeftModelForSequenceClassification, {"num_labels": 1}
            config = config.model_copy(update={"name": str(adapters)})
        self._batch_size = batch_size
        self._tokenizer = from_pretrained(AutoTokenizer, config, field, revision=config.revision)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if not self._tokenizer.chat_template:
            self._tokenizer.chat_template = plain_chat_template(self._tokenizer)
        self._tokenizer.truncation_side = "left"  # the answer stands at the end
        model = from_pretrained(
            auto, config, field, revision=config.revision, dtype=DTYPES[computed_in], **more
        )
        if model.config.num_labels != 1:
            raise ConfigError(
                f"{field}.name {name!r}: it has {model.config.num_labels} outputs, and a reward"
                " model has one; train one with algo: reward"
            )
        text_config = model.config.get_text_config()
        text_config.pad_token_id = self._tokenizer.pad_token_id  # it scores the last real token
        self._longest = learned_positions(model) or positions(model.config)
        device = f"cuda:{local_rank()}" if this_machine().gpu else "cpu"
        self._model = model.to(device).eval().requires_grad_(requires_grad=False)

    def __call__(self, batch: Batch) -> list[float]:
        """One number per completion.

        Raises:
            DataError: Its chat template refuses a conversation.
        """
        texts = [
            self._render([*prompt, {"role": "assistant", "content": completion}])
            for prompt, completion in zip(batch.prompts, batch.completions, strict=True)
        ]
        scores: list[float] = []
        for start in range(0, len(texts), self._batch_size):
            scores += self._scores(texts[start : start + self._batch_size])
        return scores

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False))
        except TemplateError as error:
            raise DataError(
                f"rewardModel: its chat template refuses a conversation ({error}): leave such"
                " prompts out, or name another model"
            ) from error

    @torch.no_grad()
    def _scores(self, texts: list[str]) -> list[float]:
        tokens: Any = self._tokenizer(
            texts,
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            truncation=self._longest is not None,
            max_length=self._longest,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self._model.device)
        scores: list[float] = self._model(**tokens).logits[:, 0].float().tolist()
        return scores
