"""The config of supervised fine-tuning and text classification."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error
from aligntune.core.config.method import (
    STREAM_NEEDS_MAX_STEPS,
    STREAM_NEEDS_NO_SPLIT,
    STREAMS,
    MethodSpec,
)
from aligntune.core.config.training import OutputDir, TrainConfig

LossOn = Literal["auto", "all", "completion", "assistant"]
"""Which tokens count in the loss."""
MOST_CLASSES = 1024
"""More different labels than this are no classes, but most likely the wrong column."""


class TaskType(StrEnum):
    """What a supervised run teaches."""

    SUPERVISED_FINE_TUNING = "supervised_fine_tuning"
    TEXT_CLASSIFICATION = "text_classification"


class SFTTrainConfig(TrainConfig):
    """Optimisation settings of supervised runs."""

    loss_on: LossOn = "auto"
    """Which tokens count in the loss. auto: the completion where rows have a prompt and a
    completion, the assistant's turns where the chat template can mark them, else all tokens."""
    packing: bool = False
    """Fill each sequence with several rows. Needs a flash attention kernel, else rows would see
    each other. Off: short runs gain little and rows stay whole."""
    padding_free: bool = False
    """Flatten the batch instead of padding it. Needs a flash attention kernel. Off: works
    everywhere."""
    liger_kernel: bool = False
    """Use Liger's fused kernels; needs a GPU and the package. Off: an extra dependency."""


LABELS_ARE_SEVERAL = Rule(
    "!(has(self.labels)) || size(self.labels) != 1",
    "classification needs at least two labels, or none to discover them",
    "labels",
)
LABELS_DIFFER = Rule("", "a label is there twice; remove one", "labels")
"""Without CEL: comparing each with each costs more than the API server allows."""


class ClassificationConfig(Section):
    """Settings of `task: text_classification`."""

    model_config = ConfigDict(json_schema_extra=cel_rules(LABELS_ARE_SEVERAL))

    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=MOST_CLASSES)
    ] = []
    """The classes, in the order of their ids. Empty: discovered in the data, evaluation sets
    included, and sorted; needed for streams."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weights each class by the inverse of its frequency, so that a rare class counts as
    much as a frequent one. none: plain cross-entropy."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if len(self.labels) == 1:
            raise rule_error(LABELS_ARE_SEVERAL)
        if len(set(self.labels)) != len(self.labels):
            raise rule_error(LABELS_DIFFER)
        return self


CLASSIFIES = "has(self.task) && self.task == 'text_classification'"
CLASSIFICATION_ONLY = Rule(
    f"!(has(self.classification)) || ({CLASSIFIES})",
    "classification settings need task: text_classification",
    "classification",
)
CLASSES_ARE_NO_TOKENS = Rule(
    f"!({CLASSIFIES}) || !has(self.train)"
    " || !((has(self.train.lossOn) && self.train.lossOn != 'auto')"
    " || (has(self.train.packing) && self.train.packing)"
    " || (has(self.train.paddingFree) && self.train.paddingFree)"
    " || (has(self.train.ligerKernel) && self.train.ligerKernel))",
    "lossOn, packing, paddingFree and ligerKernel are for training on tokens; remove them, as"
    " task: text_classification has one label per row",
    "train",
)
CLASSIFIED_TEXT_IS_PLAIN = Rule(
    f"!({CLASSIFIES}) || !has(self.model.chatTemplate)",
    "chatTemplate has no effect with task: text_classification, which reads plain text; remove it",
    "model",
)
CLASSIFIERS_HAVE_NO_GGUF = Rule(
    f"!({CLASSIFIES}) || !has(self.model.gguf) || size(self.model.gguf) == 0",
    "GGUF is for models that write text, and task: text_classification trains none: remove gguf",
    "model.gguf",
)
STREAM_NEEDS_LABELS = Rule(
    f"!({CLASSIFIES}) || !{STREAMS} || (has(self.classification)"
    " && has(self.classification.labels) && size(self.classification.labels) > 0)",
    "the classes of a stream cannot be discovered before it is read: set classification.labels",
    "datasets",
)
STREAM_HAS_NO_FREQUENCIES = Rule(
    f"!(has(self.classification) && has(self.classification.classWeights)"
    f" && self.classification.classWeights == 'balanced') || !{STREAMS}",
    "the classes of a stream cannot be counted before it is read: remove classWeights or streaming",
    "classification",
)


class SFTSpec(MethodSpec):
    """What a manifest says under `spec.sft`."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(
            CLASSIFICATION_ONLY,
            CLASSES_ARE_NO_TOKENS,
            CLASSIFIED_TEXT_IS_PLAIN,
            CLASSIFIERS_HAVE_NO_GGUF,
            STREAM_NEEDS_LABELS,
            STREAM_HAS_NO_FREQUENCIES,
            STREAM_NEEDS_MAX_STEPS,
            STREAM_NEEDS_NO_SPLIT,
        )
    )

    task: TaskType = TaskType.SUPERVISED_FINE_TUNING
    """`supervised_fine_tuning` (next tokens) or `text_classification`."""
    train: SFTTrainConfig = SFTTrainConfig()
    """Optimisation settings."""
    classification: ClassificationConfig | None = None
    """Settings of `task: text_classification`. Unset: labels discovered, plain cross-entropy."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.task != TaskType.TEXT_CLASSIFICATION:
            if self.classification is not None:
                raise rule_error(CLASSIFICATION_ONLY)
            return self
        train = self.train
        if train.loss_on != "auto" or train.packing or train.padding_free or train.liger_kernel:
            raise rule_error(CLASSES_ARE_NO_TOKENS)
        if self.model.chat_template is not None:
            raise rule_error(CLASSIFIED_TEXT_IS_PLAIN)
        if self.model.gguf:
            raise rule_error(CLASSIFIERS_HAVE_NO_GGUF)
        classes = self.classification or ClassificationConfig()
        if self.streams:
            if not classes.labels:
                raise rule_error(STREAM_NEEDS_LABELS)
            if classes.class_weights == "balanced":
                raise rule_error(STREAM_HAS_NO_FREQUENCIES)
        return self


class SFTConfig(SFTSpec):
    """All that a supervised trainer needs: the manifest's section and where to write."""

    output_dir: OutputDir = "output"
    """Folder of the checkpoints and the model. output: below the working directory."""

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as set, else 2e-4 for adapters and 2e-5 for all weights.

        Adapters want about ten times the rate ("LoRA Without Regret").
        """
        if self.train.learning_rate is not None:
            return self.train.learning_rate
        return 2e-4 if self.model.tuning == "lora" else 2e-5
