"""The GPUs of this pod, as NVIDIA's management library sees them."""

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import NamedTuple

import pynvml

_log = logging.getLogger(__name__)


class Gpu(NamedTuple):
    """One GPU at one moment."""

    number: int
    memory_used_bytes: int
    memory_total_bytes: int
    utilization: float | None
    """Share of the last moments in which a kernel ran, 0 to 1.

    None: it is not told of a part of a GPU (MIG).
    """


ReadGpus = Callable[[], tuple[Gpu, ...]]


def gpu_reader(nvml: ModuleType = pynvml) -> ReadGpus:
    """What reads this machine's GPUs; where there is no driver, it finds none.

    The library is opened at the first reading, which can take a second, and stays open: no rank has
    to wait for it.
    """

    @cache
    def there() -> bool:
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            _log.debug("no GPUs are measured: %s", error)
            return False
        return True

    def read() -> tuple[Gpu, ...]:
        if not there():
            return ()
        try:
            return tuple(_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            # One that fell off the bus, say: the launcher finds out from the ranks.
            _log.debug("GPUs cannot be measured: %s", error)
            return ()

    return read


def _gpu(nvml: ModuleType, number: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError_NotSupported:
        utilization = None
    return Gpu(number, memory.used, memory.total, utilization)
