"""Text classification: a model with a head for the classes, all weights, LoRA or QLoRA.

In the names of tensors, B is rows and C classes.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
import transformers
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from aligntune.core.config.model import ModelConfig
from aligntune.core.errors import ConfigError
from aligntune.core.files import publish
from aligntune.core.sft.config import ClassificationConfig, SFTConfig
from aligntune.core.sft.trainer_base import SFTTrainerBase
from aligntune.data.classes import ClassEncoder, discover, tokenize
from aligntune.training.class_report import ClassReport, class_report
from aligntune.training.context import rank
from aligntune.training.inference import inference
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.machine import Compute
from aligntune.training.model_loading import load_classifier, load_tokenizer

_log = logging.getLogger(__name__)


class Classified(NamedTuple):
    """What a classifier says of one text."""

    label: str
    """The likeliest class."""
    score: float
    """Its probability."""
    scores: dict[str, float]
    """The probability of each class, by label in the order of the ids; their sum is 1."""


def balanced(labels: Sequence[int], classes: Sequence[str]) -> list[float]:
    """Weights by which all classes count alike: `rows / (classes * rows of the class)`.

    Their mean over the rows is 1, as in scikit-learn's `class_weight="balanced"` (King and Zeng
    2001, "Logistic Regression in Rare Events Data").

    Args:
        labels: Each row's class, by id.
        classes: The classes' names.

    Raises:
        ConfigError: A class has no rows.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        missing = classes[int(counts.argmin())]
        raise ConfigError(
            f"classification.classWeights: class {missing!r} has no training row, so that no"
            " weight balances it; add rows, remove the label, or set classWeights to none"
        )
    weights: list[float] = (len(labels) / (len(classes) * counts)).tolist()
    return weights


class ClassificationLoop(RunLoop, transformers.Trainer):  # type: ignore[misc]  # transformers is not typed
    """transformers' trainer in our loop, with a loss over the rows of all processes."""

    report: ClassReport | None = None
    """Of the last evaluation."""

    def __init__(
        self,
        *,
        labels: Sequence[str],
        class_weights: Sequence[float],
        **trainer: Any,
    ) -> None:
        """Train on classes `labels`, of which each row counts by its class's weight."""
        super().__init__(**trainer, compute_metrics=self._measure)
        self.class_weights = list(class_weights)
        self._labels = labels
        self._weight_C = torch.tensor(class_weights, device=self.args.device)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the whole batch's weight

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor:
        """The weight of all rows of an optimizer step, over all processes."""
        weight = torch.zeros((), device=device)
        for batch in batch_samples:
            weight += self._weight_C[batch["labels"].to(device)].sum()
        total: torch.Tensor = self.accelerator.reduce(weight, "sum")
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | float = math.nan,
    ) -> Any:
        """Cross-entropy in nats: `sum(weight * -log p) / sum(weight)`, over all processes.

        `num_items_in_batch` is the denominator. Gradients of processes are averaged afterwards, so
        each multiplies its part by their number.
        """
        label_B = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        summed = cross_entropy(
            outputs.logits.float(), label_B, weight=self._weight_C, reduction="sum"
        )
        loss = summed / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Logits and labels; the loss is made of those of all rows, as batches weigh unlike."""
        self.check_preemption()
        inputs = self._prepare_inputs(inputs)
        label_B = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits_BC = model(**inputs).logits
        return None, logits_BC.float(), label_B

    def _measure(self, evaluated: transformers.EvalPrediction) -> dict[str, float]:
        logits_BC, label_B = evaluated.predictions, evaluated.label_ids
        self.report = class_report(self._labels, label_B, logits_BC.argmax(axis=1))
        loss = cross_entropy(
            torch.from_numpy(logits_BC), torch.from_numpy(label_B), weight=self._weight_C.cpu()
        )
        return {
            "loss": loss.item(),
            "accuracy": self.report.accuracy,
            "macro_f1": self.report.macro_f1,
        }


class ClassificationTrainer(LoopTrainer[SFTConfig], SFTTrainerBase):
    """Text classification with `transformers.Trainer`."""

    method = "text classification"
    adapted_task = "SEQ_CLS"

    @property
    def labels(self) -> list[str]:
        """The classes' names, in the order of their ids; empty until they are discovered."""
        return self._classes.labels

    def resolve(self, config: SFTConfig) -> SFTConfig:
        """The classes, as the head needs them; checkpoints then know them too."""
        classes = config.classification or ClassificationConfig()
        if classes.labels:
            return config
        found = classes.model_copy(update={"labels": discover(config)})
        return config.model_copy(update={"classification": found})

    def load_tokenizer(self, config: ModelConfig) -> Any:
        """The tokenizer for plain text, padded behind its end."""
        tokenizer = load_tokenizer(config, reads_turns=False)
        tokenizer.padding_side = "right"
        return tokenizer

    def load_model(self, config: ModelConfig, computed_in: Compute) -> Any:
        """The model with a head for the classes; a new one, unless it has one of this size."""
        return load_classifier(
            config,
            computed_in,
            self.tokenizer.pad_token_id,
            num_labels=len(self.labels),
            id2label=dict(enumerate(self.labels)),
            label2id={label: number for number, label in enumerate(self.labels)},
            problem_type="single_label_classification",
        )

    def make_encoder(self) -> ClassEncoder:
        """Rows become token ids and the number of their class."""
        return ClassEncoder(self.tokenizer, labels=self.labels, max_length=self.max_length)

    def make_arguments(self, shared: dict[str, Any]) -> transformers.TrainingArguments:
        """Every argument that transformers is given."""
        return transformers.TrainingArguments(**shared, label_names=["labels"])

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """The loop, on the model with its adapters."""
        model = surroundings["model"]
        adapters = self.adapters()
        if adapters is not None:
            model = get_peft_model(model, adapters)
            if self.arguments.gradient_checkpointing:
                model.enable_input_require_grads()
        weights = [1.0] * len(self.labels)
        if self._classes.class_weights == "balanced":
            weights = balanced(surroundings["train_dataset"]["labels"][:], self.labels)
            shown = zip(self.labels, weights, strict=True)
            _log.info("class weights: %s", ", ".join(f"{name} {w:.3g}" for name, w in shown))
        return ClassificationLoop(
            **surroundings | {"model": model}, labels=self.labels, class_weights=weights
        )

    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure loss (nats), accuracy and macro F1.

        The report of each class goes to the log and, with a picture of the confusion matrix, to
        `<output_dir>/evaluation`, in place of the one before.
        """
        metrics = super().evaluate(dataset)
        report = self.ensure_loop().report
        if rank() == 0:
            _log.info("\n%s", report.table())
            publish(
                Path(self.config.output_dir) / "evaluation", report.write, self.context.check_owner
            )
        return metrics

    @overload
    def predict(self, texts: str) -> Classified: ...
    @overload
    def predict(self, texts: list[str]) -> list[Classified]: ...
    def predict(self, texts: str | list[str]) -> Classified | list[Classified]:
        """The class of a text, or of each of a list; texts are cut as in training.

        Raises:
            ConfigError: A text is empty.
        """
        self.ensure_model()
        asked = [texts] if isinstance(texts, str) else texts
        if not all(text.strip() for text in asked):
            raise ConfigError("predict: an empty text has no class; leave it out")
        size = self.arguments.per_device_eval_batch_size
        answers = [
            answer
            for start in range(0, len(asked), size)
            for answer in self._classify(asked[start : start + size])
        ]
        return answers[0] if isinstance(texts, str) else answers

    def _classify(self, texts: Sequence[str]) -> list[Classified]:
        rows = [
            {"input_ids": tokens.input_ids}
            for tokens in tokenize(self.tokenizer, texts, self.max_length)
        ]
        model = self.model
        batch = self.tokenizer.pad(rows, return_tensors="pt").to(model.device)
        with inference(model, self.computed_in):
            logits_BC = model(**batch).logits
        answers = []
        for probabilities in logits_BC.float().softmax(dim=1).tolist():
            scores = dict(zip(self.labels, probabilities, strict=True))
            label = max(scores, key=scores.__getitem__)
            answers.append(Classified(label, scores[label], scores))
        return answers

    @property
    def _classes(self) -> ClassificationConfig:
        return self.config.classification or ClassificationConfig()
