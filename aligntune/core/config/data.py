"""Which data is trained on, and which of its columns mean what."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error

RowCount = Annotated[int, Field(ge=1, le=10**12)]
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]

STREAMING_NEEDS_UNIFORM_CAP = Rule(
    "!(has(self.streaming) && self.streaming && has(self.maxSamples))",
    "a stream has no known length to take a sample of: remove maxSamples, and bound the run with"
    " train.maxSteps",
    "maxSamples",
)


class ColumnsConfig(Section):
    """Which column of the data set plays which role, where the names alone do not tell.

    Any role set here overrides recognition by shape.
    """

    text: ColumnName | None = None
    """Plain text to continue. Unset: recognised by name."""
    prompt: ColumnName | None = None
    """What the model is asked. Unset: recognised by name."""
    input: ColumnName | None = None
    """Context appended to the prompt, as alpaca's `input`. Unset: recognised by name."""
    completion: ColumnName | None = None
    """What the model should answer. Unset: recognised by name."""
    messages: ColumnName | None = None
    """A list of chat messages. Unset: recognised by name."""
    label: ColumnName | None = None
    """The class, for text classification. Unset: recognised by name."""
    chosen: ColumnName | None = None
    """The preferred answer, for preferences. Unset: recognised by name."""
    rejected: ColumnName | None = None
    """The other answer, for preferences. Unset: recognised by name."""
    answer: ColumnName | None = None
    """The reference answer that reward functions see. Unset: recognised by name."""


class DataSource(Section):
    """Where rows come from, for training and for evaluation."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    """A hub name such as `tatsu-lab/alpaca`, or a file (.jsonl, .json, .csv, .parquet, .txt) or a
    folder of such files in the pod."""
    config: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The configuration (subset) of a set on the hub or of a folder. Unset: its default."""
    max_samples: RowCount | None = None
    """Use at most this many rows, drawn with the run's seed. Unset: all."""


class DatasetConfig(DataSource):
    """One source of data."""

    model_config = ConfigDict(json_schema_extra=cel_rules(STREAMING_NEEDS_UNIFORM_CAP))

    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit on the hub. Unset: the default branch."""
    split: Annotated[str, Field(min_length=1, max_length=128)] = "train"
    """Which split to read, in the hub's notation (`train[:10%]` works). train: what nearly every
    set has. A single file is its own `train`."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Relative probability that the next row comes from this source, when there are several."""
    columns: ColumnsConfig | None = None
    """Roles of the columns. Unset: recognised by shape, and logged."""
    streaming: bool = False
    """Read rows as they are needed instead of first downloading the set. Needs `train.maxSteps`.
    Off: most fine-tuning sets fit on a disk, and an epoch then has a length."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.streaming and self.max_samples is not None:
            raise rule_error(STREAMING_NEEDS_UNIFORM_CAP)
        return self


Datasets = Annotated[list[DatasetConfig], Field(min_length=1, max_length=32)]
