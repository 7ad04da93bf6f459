"""Why a rank died that did not say so itself: from its exit status and its last lines."""

import re
import signal
from typing import NamedTuple

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import CAUSE_BY_EXIT_CODE


class Diagnosis(NamedTuple):
    """A cause, and the sentence that a person reads."""

    cause: Cause
    message: str


OUT_OF_MEMORY = Diagnosis(
    Cause.OUT_OF_MEMORY,
    "the kernel killed a process because the container reached its memory limit; raise"
    " runtime.resources.limits.memory, or load less at once",
)
SHARED_MEMORY = Diagnosis(
    Cause.OUT_OF_MEMORY, "shared memory (/dev/shm) is full; raise runtime.sharedMemory"
)


def _sign(diagnosis: Diagnosis, *patterns: str) -> tuple[re.Pattern[str], Diagnosis]:
    return re.compile("|".join(patterns)), diagnosis


LOG_SIGNS = (
    _sign(
        Diagnosis(
            Cause.CUDA_OUT_OF_MEMORY,
            "the GPU's memory is full; lower train.perDeviceBatchSize or model.maxLength, or set"
            " model.quantization",
        ),
        r"CUDA out of memory",
        r"CUDA error: out of memory",
        r"CUBLAS_STATUS_ALLOC_FAILED",
        r"torch(?:\.cuda)?\.OutOfMemoryError",
    ),
    _sign(
        SHARED_MEMORY,
        r"out of shared memory",
        r"unable to (?:write to|open|mmap).*torch_",
        r"shared memory segment.*No space left",
        r"DataLoader worker.*Bus error",
    ),
    _sign(
        Diagnosis(
            Cause.GPU_ERROR,
            "a GPU does not work as it should; look at the node's kernel log for Xid messages",
        ),
        r"\bXid\b",
        r"[Uu]ncorrectable ECC",
        r"fallen off the bus",
        r"CUDA error: an illegal memory access",
        r"CUDA error: unspecified launch failure",
        r"CUDA driver initialization failed",
        r"CUDA-capable device\(s\) is/are busy",
        r"no CUDA-capable device is detected",
    ),
    _sign(
        Diagnosis(
            Cause.DISK_FULL,
            "the disk is full; free space on the volume, or lower checkpoint.keep",
        ),
        r"No space left on device",
        r"Disk quota exceeded",
        # what torch.save says of it
        r"inline_container\.cc.*(?:unexpected pos|file write failed)",
        r"PytorchStreamWriter failed writing",
    ),
    _sign(
        Diagnosis(
            Cause.UNAUTHORIZED,
            "the hub refused access; accept the model's terms, or set hub.tokenSecret to a token"
            " that may read it",
        ),
        r"GatedRepoError",
        r"Invalid user token",
    ),
    _sign(
        Diagnosis(
            Cause.MODEL_NOT_FOUND,
            "a model or data set does not exist under that name and revision, or is private and"
            " hub.tokenSecret is missing",
        ),
        r"RepositoryNotFoundError",
        r"RevisionNotFoundError",
        r"(?<!Local)EntryNotFoundError",
        r"DatasetNotFoundError",
        r"404 Client Error",
    ),
    _sign(
        Diagnosis(
            Cause.HUB_UNREACHABLE,
            "the model hub did not answer; look at the network, or use folders in place of names",
        ),
        r"LocalEntryNotFoundError",
        r"httpx\.Connect(?:Error|Timeout)",
        r"50[0234] Server Error",
    ),
    _sign(
        Diagnosis(
            Cause.UNAUTHORIZED,
            "a server refused access; check hub.tokenSecret and what its token may do",
        ),
        r"40[13] Client Error",
    ),
    _sign(
        Diagnosis(
            Cause.NCCL_ERROR,
            "the ranks lost each other; look for the rank that failed first, then at the network",
        ),
        r"NCCL (?:error|timeout)",
        r"nccl(?:System|Internal|Remote|UnhandledCuda)Error",
        r"collective operation timeout",
        r"Dist(?:Backend|Network|Store)Error",
        r"gloo.*(?:closed by peer|reset by peer|timed? ?out)",
    ),
)
"""What the last lines give away, the most specific sign first: a rank that ran out of memory makes
the others' collectives fail, and both may stand in one log."""

_WORKER_KILLED = re.compile(r"DataLoader worker.*killed by signal: Killed")


def diagnose(returncode: int, log_tail: str, *, oom_killed: bool) -> Diagnosis:
    """The most likely cause of a rank's death.

    Args:
        returncode: as subprocess has it: the exit code, or minus the signal.
        log_tail: the rank's last lines.
        oom_killed: the kernel killed a process of this container for want of memory meanwhile.
    """
    if oom_killed and (_signal_of(returncode) == signal.SIGKILL or _WORKER_KILLED.search(log_tail)):
        return OUT_OF_MEMORY
    if returncode in CAUSE_BY_EXIT_CODE:
        return Diagnosis(CAUSE_BY_EXIT_CODE[returncode], _last_line(log_tail))
    found = (diagnosis for sign, diagnosis in LOG_SIGNS if sign.search(log_tail))
    return next(found, None) or _from_status(returncode, log_tail)


def _from_status(returncode: int, log_tail: str) -> Diagnosis:
    """What the exit status alone says."""
    match _signal_of(returncode):
        case None:
            status = f"exited with code {returncode}: {_last_line(log_tail)}"
        case signal.SIGBUS:
            return SHARED_MEMORY
        case signal.SIGKILL:
            status = (
                "killed by SIGKILL, though not for the container's memory limit; look at the"
                " node's events for memory pressure"
            )
        case number:
            status = f"killed by {number.name}: {_last_line(log_tail)}"
    return Diagnosis(Cause.UNKNOWN, status)


def _signal_of(returncode: int) -> signal.Signals | None:
    number = -returncode if returncode < 0 else returncode - 128  # a shell adds 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _last_line(log_tail: str) -> str:
    return log_tail.rpartition("\n")[2]
