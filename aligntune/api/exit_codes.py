"""The pod's exit codes, after sysexits.h, and the one that each cause of failure ends it with."""

from collections import Counter
from enum import IntEnum

from aligntune.api.causes import Cause


class ExitCode(IntEnum):
    """What the launcher and `aligntune train` exit with."""

    DONE = 0
    BAD_DATA = 65
    NOT_FOUND = 66
    SOFTWARE = 70
    TEMPORARY = 75
    NOT_AUTHORISED = 77
    BAD_CONFIG = 78
    PREEMPTED = 143
    """128 + SIGTERM: stopped on request, with a checkpoint if there was a step to save."""


EXIT_CODE: dict[Cause, ExitCode] = {
    Cause.OUT_OF_MEMORY: ExitCode.TEMPORARY,
    Cause.CUDA_OUT_OF_MEMORY: ExitCode.TEMPORARY,
    Cause.NCCL_ERROR: ExitCode.TEMPORARY,
    Cause.GPU_ERROR: ExitCode.TEMPORARY,
    Cause.DATA_ERROR: ExitCode.BAD_DATA,
    Cause.MODEL_NOT_FOUND: ExitCode.NOT_FOUND,
    Cause.UNAUTHORIZED: ExitCode.NOT_AUTHORISED,
    Cause.CONFIG_ERROR: ExitCode.BAD_CONFIG,
    Cause.PREEMPTED: ExitCode.PREEMPTED,
    Cause.STALLED: ExitCode.TEMPORARY,
    Cause.LOSS_DIVERGED: ExitCode.SOFTWARE,
    Cause.DISK_FULL: ExitCode.SOFTWARE,
    Cause.HUB_UNREACHABLE: ExitCode.TEMPORARY,
    Cause.HUB_PUSH_FAILED: ExitCode.TEMPORARY,
    Cause.UNKNOWN: ExitCode.SOFTWARE,
}
"""The causes that a process in the pod can name; the others are seen from outside."""

_CAUSES_PER_CODE = Counter(EXIT_CODE.values())
CAUSE_BY_EXIT_CODE: dict[int, Cause] = {
    code: cause for cause, code in EXIT_CODE.items() if _CAUSES_PER_CODE[code] == 1
}
"""Exit codes that stand for one cause; the others need the launcher's word."""
