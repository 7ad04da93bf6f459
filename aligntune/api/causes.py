"""Why a run ended: the causes told apart, and for each whether another attempt makes sense."""

from enum import StrEnum


class Cause(StrEnum):
    """Why an attempt failed or was interrupted; the `reason` of conditions, Events and status."""

    OUT_OF_MEMORY = "OutOfMemory"
    CUDA_OUT_OF_MEMORY = "CudaOutOfMemory"
    NCCL_ERROR = "NcclError"
    GPU_ERROR = "GpuError"
    DATA_ERROR = "DataError"
    MODEL_NOT_FOUND = "ModelNotFound"
    UNAUTHORIZED = "Unauthorized"
    CONFIG_ERROR = "ConfigError"
    IMAGE_PULL_ERROR = "ImagePullError"
    UNSCHEDULABLE = "Unschedulable"
    VOLUME_ERROR = "VolumeError"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_REFUSED = "AdmissionRefused"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    LOSS_DIVERGED = "LossDiverged"
    DISK_FULL = "DiskFull"
    HUB_UNREACHABLE = "HubUnreachable"
    HUB_PUSH_FAILED = "HubPushFailed"
    SOURCE_FAILED = "SourceFailed"
    UNKNOWN = "Unknown"


class Retry(StrEnum):
    """Whether another attempt makes sense."""

    NEVER = "never"
    """The same input fails the same way."""
    COUNTED = "counted"
    """It may pass next time; counts against `policy.maxRestarts`."""
    FREE = "free"
    """Nobody's fault; does not count as long as the run gets further."""


RETRY: dict[Cause, Retry] = {
    Cause.OUT_OF_MEMORY: Retry.COUNTED,
    Cause.CUDA_OUT_OF_MEMORY: Retry.COUNTED,
    Cause.NCCL_ERROR: Retry.COUNTED,
    Cause.GPU_ERROR: Retry.COUNTED,
    Cause.DATA_ERROR: Retry.NEVER,
    Cause.MODEL_NOT_FOUND: Retry.NEVER,
    Cause.UNAUTHORIZED: Retry.NEVER,
    Cause.CONFIG_ERROR: Retry.NEVER,
    Cause.IMAGE_PULL_ERROR: Retry.COUNTED,
    Cause.UNSCHEDULABLE: Retry.COUNTED,
    Cause.VOLUME_ERROR: Retry.COUNTED,
    Cause.QUOTA_EXCEEDED: Retry.COUNTED,
    Cause.ADMISSION_REFUSED: Retry.NEVER,
    Cause.PREEMPTED: Retry.FREE,
    Cause.NODE_LOST: Retry.FREE,
    Cause.STALLED: Retry.COUNTED,
    Cause.DEADLINE_EXCEEDED: Retry.NEVER,
    Cause.LOSS_DIVERGED: Retry.NEVER,
    Cause.DISK_FULL: Retry.NEVER,
    Cause.HUB_UNREACHABLE: Retry.COUNTED,
    Cause.HUB_PUSH_FAILED: Retry.COUNTED,
    Cause.SOURCE_FAILED: Retry.NEVER,
    Cause.UNKNOWN: Retry.COUNTED,
}
