"""How a model is trained: optimisation, evaluation, checkpoints, logging, distribution."""

import os
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error
from aligntune.core.config.data import DataSource

Steps = Annotated[int, Field(ge=1, le=100_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Strategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
OutputDir = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(os.path.expanduser)]
"""A folder; `~` is expanded here, as not every library would."""


WARMUP_NEEDS_SCHEDULE = Rule(
    "!(has(self.warmupRatio) && self.warmupRatio > 0.0"
    " && has(self.lrScheduler) && self.lrScheduler == 'constant')",
    "a constant rate has no warm-up: set lrScheduler to constant_with_warmup, or remove"
    " warmupRatio",
    "warmupRatio",
)


class TrainConfig(Section):
    """Optimisation settings that all methods share."""

    model_config = ConfigDict(json_schema_extra=cel_rules(WARMUP_NEEDS_SCHEDULE))

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 1
    """Passes over the data; fractions allowed. 1: more epochs on instruction data mostly memorise.
    Ignored where `maxSteps` is set."""
    max_steps: Steps | None = None
    """Stop after this many optimizer steps. Unset: `epochs` decides."""
    per_device_batch_size: BatchSize = 4
    """Sequences per process and forward pass. 4: fits a 3B LoRA at 1024 tokens on a 24 GB GPU."""
    gradient_accumulation_steps: BatchSize = 1
    """Forward passes per optimizer step. 1: raise it where the batch does not fit."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Peak learning rate. Unset: by method and tuning (the table of defaults in the docs)."""
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Shape of the learning rate over the steps. linear: transformers' default."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps over which the rate rises from 0. 0: adapters start at zero and need
    none."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """AdamW's decoupled weight decay. 0: short runs near a good start need none."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Gradients are scaled down to this L2 norm. 1.0: transformers' default."""
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd"] = (
        "adamw_torch"
    )
    """The optimizer. adamw_8bit needs a GPU. adamw_torch: runs on every device."""
    precision: Precision = "auto"
    """What is computed in; how weights are stored is separate. auto: bf16 where the GPU has it,
    else fp16 on a GPU, fp32 on a CPU."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, about a third more time. Unset: on
    with a GPU, off without."""
    compile: bool = False
    """Compile the model with torch.compile. Off: it pays only in long runs of even lengths."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Seed of data order, adapter initialisation, dropout and sampling."""

    def recomputes(self, *, gpu: bool) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return gpu if self.gradient_checkpointing is None else self.gradient_checkpointing

    @model_validator(mode="after")
    def _warmup_has_an_effect(self) -> Self:
        if self.warmup_ratio > 0 and self.lr_scheduler == "constant":
            raise rule_error(WARMUP_NEEDS_SCHEDULE)
        return self


class EvaluationDataset(DataSource):
    """A source to evaluate on; its columns are recognised as in training."""

    split: Annotated[str, Field(min_length=1, max_length=128)] = "test"
    """Which split to read. test: the usual name of held-out rows."""


PATIENCE_NEEDS_STEPS = Rule(
    "!(has(self.earlyStoppingPatience)) || (has(self.everySteps))",
    "early stopping compares evaluations during the run: set everySteps too",
    "earlyStoppingPatience",
)
BEST_NEEDS_STEPS = Rule(
    "!(has(self.keepBest) && self.keepBest) || (has(self.everySteps))",
    "the best model is chosen among evaluations during the run: set everySteps too",
    "keepBest",
)
EVALUATION_NEEDS_ROWS = Rule(
    "!(has(self.everySteps)) || (has(self.splitRatio))"
    " || (has(self.datasets) && size(self.datasets) > 0)",
    "there is nothing to evaluate on: set splitRatio or datasets",
    "everySteps",
)
ONE_EVALUATION_SOURCE = Rule(
    "!(has(self.splitRatio) && has(self.datasets) && size(self.datasets) > 0)",
    "rows to evaluate on come from one place: set splitRatio or datasets, not both",
    "splitRatio",
)


class EvaluationConfig(Section):
    """Measuring on data that is not trained on."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(
            PATIENCE_NEEDS_STEPS, BEST_NEEDS_STEPS, EVALUATION_NEEDS_ROWS, ONE_EVALUATION_SOURCE
        )
    )

    split_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the rows held out, drawn with the run's seed. Unset: none, unless `datasets` are
    given."""
    datasets: Annotated[list[EvaluationDataset], Field(max_length=8)] = []
    """Sources of their own to evaluate on, in place of a held-out share. Empty: none."""
    every_steps: Steps | None = None
    """Optimizer steps between evaluations. Unset: at the end only."""
    per_device_batch_size: BatchSize | None = None
    """Sequences per process in evaluation. Unset: as in training."""
    early_stopping_patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Stop after this many evaluations without a better loss. Needs `everySteps`. Unset: never."""
    keep_best: bool = False
    """Save the model of the best evaluation instead of the last. Needs `everySteps`. Off: the last
    model of a short run is nearly always the best."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.early_stopping_patience is not None and self.every_steps is None:
            raise rule_error(PATIENCE_NEEDS_STEPS)
        if self.keep_best and self.every_steps is None:
            raise rule_error(BEST_NEEDS_STEPS)
        if self.every_steps is not None and self.split_ratio is None and not self.datasets:
            raise rule_error(EVALUATION_NEEDS_ROWS)
        if self.split_ratio is not None and self.datasets:
            raise rule_error(ONE_EVALUATION_SOURCE)
        return self


class CheckpointConfig(Section):
    """Saving where the run stands, so that it can go on."""

    every_steps: Steps = 200
    """Optimizer steps between checkpoints. 200: at 3 s a step a lost node costs at most 10
    minutes."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many complete checkpoints stay on storage. 2: the newest may turn out to be broken."""
    resume: Literal["auto", "never", "force"] = "auto"
    """`auto` goes on from the newest complete checkpoint of the same config and world size and
    refuses another's; `force` takes it all the same; `never` starts anew."""


class LoggingConfig(Section):
    """Where the numbers of the run go, besides status and Prometheus."""

    every_steps: Steps = 10
    """Optimizer steps between log lines. 10: a line costs a synchronisation with the GPU."""
    trackers: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], Field(max_length=3)] = []
    """Experiment trackers; their keys come from `runtime.env` or `runtime.envFrom`. Empty: none."""
    project: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Project (W&B) or experiment (MLflow). Unset: the tracker's default."""
    run_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The run's name in the trackers. Unset: the job's name."""


class DistributedConfig(Section):
    """How several processes share one model."""

    strategy: Strategy = "ddp"
    """`ddp` keeps a whole model per process; `fsdp2`, `zero2` and `zero3` shard its state. ddp:
    the simplest, and LoRA rarely needs more."""
