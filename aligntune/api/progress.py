"""What a running attempt says of itself, and how it ended: the lines, endpoint and files.

A pod is a tenant's, and what it says goes into the status: every value here is bounded at least as
closely as there, so that no answer can make a status that the API server would not take. Its image
may also be newer than the operator: what that says beyond what is known here is passed over.
"""

import re
import sys
from itertools import islice
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

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
METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,63}")
LONGEST_TEXT = 2048
"""Characters of an outcome's message, and of its log tail."""
LONGEST_ETA = 10**9
"""Seconds, about 30 years: no run is waited for so long."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""As far as every JSON reader counts exactly."""
AttemptNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]
ProcessExitCode = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
"""An int32, as in a pod's status."""


def _reportable(metrics: Any) -> Any:  # noqa: ANN401  a validator sees what was passed in
    """Leave out what cannot be reported, and all beyond the first `MAX_METRICS`: a number that is
    not finite, or a name that is none, must not end a training run.
    """
    if not isinstance(metrics, dict):
        return metrics
    reportable = (
        (name, value)
        for name, value in metrics.items()
        if isinstance(name, str)
        and METRIC_NAME.fullmatch(name)
        and (not isinstance(value, int | float) or abs(value) <= sys.float_info.max)
    )
    return dict(islice(reportable, MAX_METRICS))


def _foreseeable(seconds: Any) -> Any:  # noqa: ANN401  a validator sees what was passed in
    return None if isinstance(seconds, int) and seconds > LONGEST_ETA else seconds


def _known_cause(cause: Any) -> Any:  # noqa: ANN401  a validator sees what was passed in
    """A cause that only a newer version knows is unknown here; the message beside it tells more."""
    return Cause.UNKNOWN if isinstance(cause, str) and cause not in set(Cause) else cause


def _known_activity(activity: Any) -> Any:  # noqa: ANN401  a validator sees what was passed in
    """Whatever a newer trainer does besides is training for those who cannot tell."""
    known = get_args(Activity)
    return "training" if isinstance(activity, str) and activity not in known else activity


WRITTEN_WHOLE: JsonDict = {"x-kubernetes-map-type": "atomic"}

Metrics = Annotated[
    dict[str, float],
    BeforeValidator(_reportable),
    Field(max_length=MAX_METRICS, json_schema_extra=WRITTEN_WHOLE),
]
Eta = Annotated[Annotated[int, Field(ge=0, le=LONGEST_ETA)] | None, BeforeValidator(_foreseeable)]

TrackerUrls = Annotated[
    dict[str, Annotated[str, Field(max_length=2048, pattern="^https?://")]],
    Field(max_length=8, json_schema_extra=WRITTEN_WHOLE),
]


class StatusSection(Section):
    """A part of what is told. Fields that a newer version wrote are passed over when it is read.

    Who writes it owns it whole: an API server that noted the owner of each field would keep as much
    of that as of the status itself.
    """

    model_config = ConfigDict(extra="ignore", json_schema_extra=WRITTEN_WHOLE)


class Progress(StatusSection):
    """How far the run is."""

    step: Count = 0
    """Optimizer steps done, over all attempts."""
    total_steps: Count | None = None
    """Optimizer steps of the whole run. Unset: not known yet."""
    epoch: Annotated[float, Field(ge=0)] | None = None
    """Passes over the data done."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the steps done."""
    eta_seconds: Eta = None
    """Expected seconds to the last step, at this attempt's pace. Unset: not known, or above 30
    years."""
    samples_per_second: Annotated[float, Field(ge=0)] | None = None
    """Sequences trained on per second, over all processes."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Tokens trained on per second, without padding, over all processes."""
    training_seconds: Annotated[float, Field(ge=0, le=LONGEST_ETA)] = 0
    """Seconds spent in the steps that were kept, over all attempts; the rest of the time that pods
    were held went into starting, evaluating, saving and steps that were lost."""
    activity: Annotated[Activity, BeforeValidator(_known_activity)] = "starting"
    """What the trainer is doing."""
    updated_at: AwareDatetime | None = None
    """When the trainer last said so."""


class Checkpoint(StatusSection):
    """The newest complete checkpoint."""

    step: Count
    """The step after which it was saved."""
    path: Annotated[str, Field(max_length=4096)]
    """Its folder, below the storage's root."""
    saved_at: AwareDatetime
    """When it was complete."""


class Duration(StatusSection):
    """How often something was done, and how long it took in all."""

    count: Count = 0
    """How often."""
    seconds: Annotated[float, Field(ge=0)] = 0
    """How long in all."""


class Durations(StatusSection):
    """What the first process of an attempt spent its time on."""

    loading: Duration = Duration()
    """Loading models, data and what they need, before the first step; of a stream also the rows
    that earlier attempts have trained on."""
    step: Duration = Duration()
    """Optimizer steps, with data wait and generation; evaluation and checkpoints lie between."""
    data_wait: Duration = Duration()
    """Waiting for the batches of a step. PPO's prompts are part of its generation."""
    generation: Duration = Duration()
    """Sampling answers (PPO, GRPO)."""
    evaluation: Duration = Duration()
    """Evaluations."""
    checkpoint: Duration = Duration()
    """Checkpoints, until they are complete."""
    saving: Duration = Duration()
    """Saving the trained model."""


class Snapshot(StatusSection):
    """What `/progress` answers."""

    attempt: AttemptNumber = 1
    """Number of the attempt."""
    pod_uid: Annotated[str, Field(max_length=64)] = ""
    """UID of the pod that answers."""
    progress: Progress = Progress()
    """How far the run is."""
    metrics: Metrics = {}
    """The newest value of each metric, by its camelCase name; finite numbers only."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    tracker_urls: TrackerUrls = {}
    """The run's page in each experiment tracker."""
    durations: Durations = Durations()
    """What this attempt has spent its time on."""
    attempt_seconds: Annotated[float, Field(ge=0)] = 0
    """Seconds since the attempt's first process began."""
    stalled_seconds: Count | None = None
    """Seconds without a step, once they exceed the job's limit. Unset: not stalled."""


class Outcome(StatusSection):
    """How an attempt ended: the termination message and `attempt-N/outcome.json`."""

    result: Literal["Succeeded", "Failed", "Preempted"]
    """Preempted: stopped by SIGTERM, with a checkpoint if there was a step to save."""
    reason: Annotated[Cause, BeforeValidator(_known_cause)] | None = None
    """Why it failed or was preempted."""
    message: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    """One sentence for a person: what is wrong, where, how to fix it."""
    exit_code: ProcessExitCode
    """The exit code that goes with it."""
    step: Count = 0
    """Optimizer steps done."""
    total_steps: Count | None = None
    """Optimizer steps of the whole run."""
    metrics: Metrics = {}
    """The last value of each metric."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    model_path: Annotated[str, Field(max_length=4096)] | None = None
    """Folder of the trained model, below the storage's root."""
    model_url: Annotated[str, Field(max_length=2048)] | None = None
    """Page of the published model."""
    log_tail: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    """The last log lines of the rank that failed, with tokens scrubbed."""


class Report(Section):
    """One JSON line from a rank to the launcher. Rank 0 reports progress, any rank its outcome."""

    snapshot: Snapshot | None = None
    """Where the run stands."""
    outcome: Outcome | None = None
    """How this rank ended; the last line it writes."""
