"""What supervised and RL runs have in common: the sections around the method, and their rules."""

from typing import Self

from pydantic import ConfigDict, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error
from aligntune.core.config.data import Datasets
from aligntune.core.config.model import ModelConfig, ModelRef
from aligntune.core.config.training import (
    CheckpointConfig,
    DistributedConfig,
    EvaluationConfig,
    LoggingConfig,
    TrainConfig,
)

MODEL_FIELDS = ("model", "reference_model", "reward_model")
"""The fields of a method that may name a model."""

STREAMS = "self.datasets.exists(d, has(d.streaming) && d.streaming)"
"""A source is a stream, in CEL."""
STREAM_NEEDS_MAX_STEPS = Rule(
    f"!{STREAMS} || (has(self.train) && has(self.train.maxSteps))",
    "a stream has no known length: set train.maxSteps",
    "datasets",
)
STREAM_NEEDS_NO_SPLIT = Rule(
    f"!{STREAMS} || !(has(self.evaluation) && has(self.evaluation.splitRatio))",
    "a share of a stream cannot be held out: name evaluation.datasets instead of splitRatio",
    "evaluation",
)


class MethodSpec(Section):
    """The sections that every method has."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(STREAM_NEEDS_MAX_STEPS, STREAM_NEEDS_NO_SPLIT)
    )

    model: ModelConfig
    """The model that is tuned."""
    datasets: Datasets
    """The sources of data, mixed by weight."""
    train: TrainConfig = TrainConfig()
    """Optimisation settings."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Measuring on held-out data."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving where the run stands."""
    logging: LoggingConfig = LoggingConfig()
    """Where the numbers of the run go."""
    distributed: DistributedConfig = DistributedConfig()
    """How several processes share one model."""

    @property
    def models(self) -> dict[str, ModelRef]:
        """Every model that the run reads, by the Python name of its field."""
        found = ((name, getattr(self, name, None)) for name in MODEL_FIELDS)
        return {name: model for name, model in found if model is not None}

    @property
    def streams(self) -> bool:
        """Rows are read as they are needed: their number is not known beforehand."""
        return any(source.streaming for source in self.datasets)

    @model_validator(mode="after")
    def _stream_rules(self) -> Self:
        if self.streams:
            if self.train.max_steps is None:
                raise rule_error(STREAM_NEEDS_MAX_STEPS)
            if self.evaluation.split_ratio is not None:
                raise rule_error(STREAM_NEEDS_NO_SPLIT)
        return self
