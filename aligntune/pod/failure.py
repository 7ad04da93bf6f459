"""Why a run ended in an exception: the cause, and a sentence for a person."""

from typing import NamedTuple

from aligntune.api.causes import Cause
from aligntune.core.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    HubPushError,
    HubUnreachableError,
    LossDivergedError,
    ModelNotFoundError,
    RunError,
    UnauthorizedError,
    error_chain,
)
from aligntune.core.files import FULL_DISK
from aligntune.pod.diagnosis import LOG_SIGNS

OURS: dict[type[RunError], Cause] = {
    ConfigError: Cause.CONFIG_ERROR,
    DatasetNotFoundError: Cause.MODEL_NOT_FOUND,
    DataError: Cause.DATA_ERROR,
    ModelNotFoundError: Cause.MODEL_NOT_FOUND,
    UnauthorizedError: Cause.UNAUTHORIZED,
    LossDivergedError: Cause.LOSS_DIVERGED,
    HubUnreachableError: Cause.HUB_UNREACHABLE,
    HubPushError: Cause.HUB_PUSH_FAILED,
    RunError: Cause.UNKNOWN,
}
"""Our own exceptions, the general ones last; what they say is all there is to say."""

FULL_DISK_REMEDY = "the disk is full: make the volume larger, or lower checkpoint.keep"
MEMORY_REMEDY = "the memory is full: raise its limit, or lower train.perDeviceBatchSize"


class Failure(NamedTuple):
    """What an exception means."""

    cause: Cause
    message: str
    """What is wrong, where, how to fix it."""
    explained: bool
    """The message says all; a traceback would add nothing."""


def classify(error: BaseException) -> Failure:
    """What an exception, or the first recognisable one behind it, means."""
    for link in error_chain(error):
        for kind, cause in OURS.items():
            if isinstance(link, kind):
                return Failure(cause, str(link), explained=True)
        said = f"{type(link).__name__}: {link}"
        if _is_full_disk(link):
            return Failure(Cause.DISK_FULL, f"{FULL_DISK_REMEDY} ({_line(link)})", explained=True)
        if isinstance(link, MemoryError) or "can't allocate memory" in said:
            return Failure(Cause.OUT_OF_MEMORY, f"{MEMORY_REMEDY} ({_line(link)})", explained=False)
        for sign, diagnosis in LOG_SIGNS:
            if sign.search(said):
                message = f"{diagnosis.message} ({_line(link)})"
                return Failure(diagnosis.cause, message, explained=False)
    return Failure(Cause.UNKNOWN, f"{type(error).__name__}: {_line(error)}", explained=False)


def _is_full_disk(error: BaseException) -> bool:
    """By error number, or by what the writers of torch and safetensors say without one."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return True
    said = (
        "No space left",
        "quota exceeded",
        "File too large",
        "StreamWriter failed writing",
        "unexpected pos",  # the same, where torch notices only when it closes the file
    )
    return any(words in str(error) for words in said)


def _line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
