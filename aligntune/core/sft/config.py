"""The config of supervised fine-tuning and text classification."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, broken, cel_rules
from aligntune.core.config.method import (
    STREAM_NEEDS_MAX_STEPS,
    STREAM_NEEDS_NO_SPLIT,
    MethodSpec,
)
from aligntune.core.config.training import TrainConfig


class TaskType(StrEnum):
    """What a supervised run teaches."""

    SUPERVISED_FINE_TUNING = "supervised_fine_tuning"
    TEXT_CLASSIFICATION = "text_classification"


class SFTTrainConfig(TrainConfig):
    """Optimisation settings of supervised runs."""

    loss_on: Literal["auto", "all", "completion", "assistant"] = "auto"
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


class ClassificationConfig(Section):
    """Settings of `task: text_classification`."""

    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=1024)
    ] = []
    """The classes, in the order of their ids. Empty: discovered in the data, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weights each class by the inverse of its frequency. none: plain cross-entropy."""


CLASSIFICATION_ONLY = Rule(
    "!(has(self.classification)) || (has(self.task) && self.task == 'text_classification')",
    "classification settings need task: text_classification",
    "classification",
)


class SFTSpec(MethodSpec):
    """What a manifest says under `spec.sft`."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(
            CLASSIFICATION_ONLY, STREAM_NEEDS_MAX_STEPS, STREAM_NEEDS_NO_SPLIT
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
        if self.classification is not None and self.task != TaskType.TEXT_CLASSIFICATION:
            raise broken(CLASSIFICATION_ONLY)
        return self


class SFTConfig(SFTSpec):
    """All that a supervised trainer needs: the manifest's section and where to write."""

    output_dir: Annotated[str, Field(min_length=1, max_length=4096)] = "output"
    """Folder of the checkpoints and the model. output: below the working directory."""

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as set, else 2e-4 for adapters and 2e-5 for all weights.

        Adapters want about ten times the rate ("LoRA Without Regret").
        """
        if self.train.learning_rate is not None:
            return self.train.learning_rate
        return 2e-4 if self.model.tuning == "lora" else 2e-5
