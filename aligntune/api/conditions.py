"""The conditions and phases of an AlignTuneJob, and the reasons that are not causes of failure."""

from enum import StrEnum
from typing import NamedTuple


class Condition(StrEnum):
    """A condition's type."""

    ACCEPTED = "Accepted"
    """The spec is valid and this operator can run it."""
    RUNNING = "Running"
    """Every pod of the current attempt runs."""
    SUSPENDED = "Suspended"
    """No pod runs, because `spec.suspend` or a queue says so."""
    RESUMABLE = "Resumable"
    """Another attempt goes on from the newest checkpoint, not from step 0."""
    PROGRESS_UNKNOWN = "ProgressUnknown"
    """The pod runs but its progress endpoint does not answer; training may well go on."""
    GPU_TOO_SMALL = "GpuTooSmall"
    """By an estimate the job needs more memory than the GPUs that it may get; otherwise absent."""
    COMPLETE = "Complete"
    """The model is trained and saved."""
    FAILED = "Failed"
    """The job is over without a model."""
    FINISHED = "Finished"
    """Complete or Failed: what `kubectl wait` waits for."""
    RECONCILING = "Reconciling"
    """kstatus: the operator still works towards what the spec asks."""
    STALLED = "Stalled"
    """kstatus: nothing more will happen without a change by a person."""


class Phase(StrEnum):
    """Where the job is, in one word, for people."""

    PENDING = "Pending"
    """No attempt has started: the job was refused, waits for another job's model or for old pods to
    end, or is about to start."""
    QUEUED = "Queued"
    """Accepted; a queue holds it."""
    STARTING = "Starting"
    """Its pods are being scheduled, pulled or started."""
    RUNNING = "Running"
    """It trains."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true."""
    RESTARTING = "Restarting"
    """An attempt ended; the next is due."""
    SUCCEEDED = "Succeeded"
    """The model is trained and saved."""
    FAILED = "Failed"
    """It is over without a model."""


OVER = (Phase.SUCCEEDED, Phase.FAILED)
"""The phases that no job leaves."""


class Reason(NamedTuple):
    """A condition's reason with the sentence that goes with it."""

    reason: str
    message: str

    def __call__(self, **values: object) -> "Reason":
        """The same reason with its sentence filled in."""
        return Reason(self.reason, self.message.format(**values))


VALID = Reason("Valid", "The spec is valid; backend {backend} trains {task}.")
INVALID_SPEC = Reason("InvalidSpec", "{errors}")
UNSUPPORTED = Reason("Unsupported", "{error}")
REFUSED = Reason("AdmissionRefused", "The API server refused the Job: {message}")
MISSING = Reason("ObjectsMissing", "{message}")
IN_USE = Reason("FolderInUse", "{message}")
TOO_LARGE = Reason("EstimateTooLarge", "{message}")
PODS_PENDING = Reason("PodsPending", "{ready} of {total} pods run. {detail}")
PODS_RUNNING = Reason("PodsRunning", "{started} of {total} pods run.")
PODS_ENDED = Reason("PodsEnded", "No pod runs any more.")
NOT_STARTED = Reason("NotStarted", "No pod runs yet.")
NOT_SUSPENDED = Reason("NotSuspended", "The job may run.")
SUSPENDED_BY_SPEC = Reason("SuspendedBySpec", "spec.suspend is true.")
ENDPOINT_ANSWERS = Reason("EndpointAnswers", "The pod reports its progress.")
ENDPOINT_SILENT = Reason("EndpointSilent", "{error} Training may well go on.")
NOT_REPORTING = Reason("NotReporting", "No pod has reported yet, or none runs any more.")
TRAINED = Reason("Trained", "Trained {steps} steps; the model {place}.")
DURABLE_STORAGE = Reason("DurableStorage", "A restart goes on from the newest checkpoint.")
EPHEMERAL_STORAGE = Reason(
    "EphemeralStorage",
    "Checkpoints vanish with their pod, so a restart begins at step 0: set storage.claimName to"
    " keep them.",
)
RESUME_NEVER = Reason("ResumeNever", "checkpoint.resume is never, so a restart begins at step 0.")
QUEUED = Reason("Queued", "A queue holds the job until there is room for it.")
RESTARTING = Reason(
    "Restarting", "Attempt {number} failed ({cause}: {error}); the next starts after {start}."
)
WAITING = Reason("WaitingForJobs", "{sentences}")
IN_PROGRESS = Reason("InProgress", "The job is not over.")
STOPPING = Reason("Stopping", "Waiting for the pods to save a checkpoint and end.")
HINDERED = Reason("CannotCreateJob", "The Job could not be created and is tried again: {error}")
AWAITING_PODS = Reason(
    "WaitingForPods",
    "{writer}, of an earlier attempt or of a deleted job of this name, may still write to the"
    " storage. The next attempt starts once it and any other such have ended.",
)
STARTING = Reason("Starting", "Waiting for every pod to run.")
UP_TO_DATE = Reason("UpToDate", "Nothing is left to be done by the operator.")
WORKING = Reason("Working", "The job is not stalled.")
