"""The status of an AlignTuneJob: everything the operator tells."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from aligntune.api.causes import Cause
from aligntune.api.conditions import Phase
from aligntune.api.progress import (
    Checkpoint,
    Count,
    Metrics,
    ProcessExitCode,
    Progress,
    StatusSection,
    TrackerUrls,
)

MAX_HISTORY = 10
LONGEST_MESSAGE = 32_768
"""Characters of a metav1.Condition's message."""

Text = Annotated[str, Field(max_length=4096)]


class StatusCondition(StatusSection):
    """A metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE)]
    """Why, in a sentence."""
    last_transition_time: AwareDatetime
    """When `status` last changed."""
    observed_generation: Count | None = None
    """The metadata.generation that this speaks of."""


class Summary(StatusSection):
    """Ready-made strings for kubectl's columns, which can neither choose nor format."""

    backend: Annotated[str, Field(max_length=64)] = ""
    """trl or unsloth."""
    task: Annotated[str, Field(max_length=64)] = ""
    """sft, classification, dpo, ppo, grpo or reward."""
    progress: Annotated[str, Field(max_length=64)] = ""
    """Steps done of all."""
    percent: Annotated[str, Field(max_length=16)] = ""
    """Share of the steps done."""
    loss: Annotated[str, Field(max_length=32)] = ""
    """The newest training loss."""
    eta: Annotated[str, Field(max_length=32)] = ""
    """Expected time to the last step."""


class Attempt(StatusSection):
    """One attempt: a Job, from its creation to its end."""

    attempt: Count
    """Its number."""
    job: Annotated[str, Field(max_length=253)]
    """Name of its Job."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """The image that it runs. Unset: it is not known."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """How it ended: Succeeded, Suspended, or the cause. Unset: it is not over."""
    exit_code: ProcessExitCode | None = None
    """Exit code of the pod that ended it."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """The pod that ended it."""
    from_step: Count = 0
    """The step it began at: that of the newest checkpoint, or 0."""
    to_step: Count | None = None
    """The step it reached. Unset: it has told of none."""
    start: AwareDatetime | None = None
    """When its Job was created."""
    end: AwareDatetime | None = None
    """When it ended. Unset: it is not over."""


class Attempts(StatusSection):
    """The attempts so far."""

    current: Count = 0
    """Number of the newest attempt."""
    restarts: Count = 0
    """Restarts that count against policy.maxRestarts."""
    preemptions: Count = 0
    """Restarts that were nobody's fault."""
    next_start: AwareDatetime | None = None
    """When the next attempt starts, at the earliest. Unset: none is due."""
    active_seconds: Count = 0
    """Seconds that pods were held until activeSince, over all attempts, without time in a queue;
    activeDeadlineSeconds counts them."""
    active_since: AwareDatetime | None = None
    """Since when the attempt under way holds pods. Unset: none is, or a queue holds it."""
    batch_divisor: Annotated[int, Field(ge=1, le=2**20)] = 1
    """perDeviceBatchSize is divided by this and gradientAccumulationSteps multiplied: what
    policy.onCudaOutOfMemory: HalveBatch has come to."""
    history: Annotated[list[Attempt], Field(max_length=MAX_HISTORY)] = []
    """The last attempts, oldest first; the newest may not be over."""


class Failure(StatusSection):
    """Why the last attempt failed."""

    reason: Cause
    """The cause."""
    message: Text
    """One sentence: what is wrong, where, how to fix it."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """The pod that failed first."""
    exit_code: ProcessExitCode | None = None
    """Its exit code."""
    retryable: bool
    """Whether another attempt makes sense."""
    log_tail: Annotated[str, Field(max_length=4096)] = ""
    """Its last log lines, with tokens scrubbed."""


class Source(StatusSection):
    """Another job's model that this one starts from, as it was when this one did."""

    job: Annotated[str, Field(max_length=63)]
    """The AlignTuneJob that trained it."""
    uid: Annotated[str, Field(max_length=64)]
    """Its UID: another job of that name later is another source."""
    claim_name: Annotated[str, Field(max_length=253)] | None = None
    """The PersistentVolumeClaim that holds it. Unset: it is on the hub."""
    path: Annotated[str, Field(max_length=4096)] | None = None
    """Its folder in the claim."""
    repo_id: Annotated[str, Field(max_length=193)] | None = None
    """Its repository on the hub. Unset: it is in a claim."""


class TrainedModel(StatusSection):
    """The result."""

    path: Annotated[str, Field(max_length=4096)] | None = None
    """Its folder, below the storage's root."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Its page on the hub."""


class AlignTuneJobStatus(StatusSection):
    """All that is known of the job."""

    # Others may own conditions beside the operator's.
    model_config = ConfigDict(json_schema_extra={})

    observed_generation: Count | None = None
    """The metadata.generation that this status speaks of."""
    phase: Phase = Phase.PENDING
    """Where the job is, in one word."""
    conditions: Annotated[
        list[StatusCondition],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = []
    """Accepted, Running, Suspended, Resumable, ProgressUnknown, GpuTooSmall, Complete, Failed,
    Finished, Reconciling, Stalled."""
    summary: Summary = Summary()
    """Strings for kubectl's columns."""
    progress: Progress | None = None
    """How far the run is."""
    metrics: Metrics = {}
    """The newest value of each metric."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    tracker_urls: TrackerUrls | None = None
    """The run's page in each experiment tracker (W&B, MLflow). Unset: it has none."""
    attempts: Attempts = Attempts()
    """The attempts so far."""
    failure: Failure | None = None
    """Why the last attempt failed."""
    lineage: Annotated[list[Source], Field(max_length=3)] = []
    """The models of other jobs that this one starts from. Empty: it does not, or waits for them."""
    model: TrainedModel | None = None
    """The result."""
    start_time: AwareDatetime | None = None
    """When the first attempt's Job was created."""
    completion_time: AwareDatetime | None = None
    """When the job finished."""
