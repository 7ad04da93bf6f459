"""What a running attempt says of itself, and how it ended: the lines, endpoint and files."""

import math
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from aligntune.api.causes import Cause
from aligntune.core.config.base import Section

Activity = Literal[
    "starting",
    "loading",
    "training",
    "evaluating",
    "checkpointing",
    "generating",
    "saving",
    "done",
]

MAX_METRICS = 64


def _reportable(metrics: Any) -> Any:  # noqa: ANN401  a validator sees what was passed in
    """Leave out NaN, infinity and all beyond the first `MAX_METRICS`: a number that cannot be
    reported must not end a training run.
    """
    if not isinstance(metrics, dict):
        return metrics
    finite = (
        (name, value)
        for name, value in metrics.items()
        if not isinstance(value, float) or math.isfinite(value)
    )
    return dict(islice(finite, MAX_METRICS))


Metrics = Annotated[dict[str, float], BeforeValidator(_reportable), Field(max_length=MAX_METRICS)]


class Progress(Section):
    """How far the run is."""

    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps done, over all attempts."""
    total_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps of the whole run. Unset: not known yet."""
    epoch: Annotated[float, Field(ge=0)] | None = None
    """Passes over the data done."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the steps done."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """Expected seconds to the last step, at this attempt's pace."""
    samples_per_second: Annotated[float, Field(ge=0)] | None = None
    """Sequences trained on per second, over all processes."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Tokens trained on per second, without padding, over all processes."""
    activity: Activity = "starting"
    """What the trainer is doing."""
    updated_at: datetime | None = None
    """When the trainer last said so."""


class Checkpoint(Section):
    """The newest complete checkpoint."""

    step: Annotated[int, Field(ge=0)]
    """The step after which it was saved."""
    path: Annotated[str, Field(max_length=4096)]
    """Its folder, below the storage's root."""
    saved_at: datetime
    """When it was complete."""


class Snapshot(Section):
    """What `/progress` answers."""

    attempt: Annotated[int, Field(ge=1)] = 1
    """Number of the attempt."""
    pod_uid: Annotated[str, Field(max_length=64)] = ""
    """UID of the pod that answers."""
    progress: Progress = Progress()
    """How far the run is."""
    metrics: Metrics = {}
    """The newest value of each metric, by its camelCase name; finite numbers only."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    stalled_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds without a step, once they exceed the job's limit. Unset: not stalled."""


class Outcome(Section):
    """How an attempt ended: the termination message and `attempt-N/outcome.json`."""

    result: Literal["Succeeded", "Failed", "Preempted"]
    """Preempted: stopped by SIGTERM, with a checkpoint saved."""
    reason: Cause | None = None
    """Why it failed or was preempted."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """One sentence for a person: what is wrong, where, how to fix it."""
    exit_code: int
    """The exit code that goes with it."""
    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps of the whole run."""
    metrics: Metrics = {}
    """The last value of each metric."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    model_path: Annotated[str, Field(max_length=4096)] | None = None
    """Folder of the trained model, below the storage's root."""
    model_url: Annotated[str, Field(max_length=2048)] | None = None
    """Page of the published model."""
    log_tail: Annotated[str, Field(max_length=2048)] = ""
    """The last log lines of the rank that failed, with tokens scrubbed."""


class Report(Section):
    """One JSON line from a rank to the launcher. Rank 0 reports progress, any rank its outcome."""

    snapshot: Snapshot | None = None
    """Where the run stands."""
    outcome: Outcome | None = None
    """How this rank ended; the last line it writes."""
