"""What a scrape tells of GPUs. NVIDIA's library is a fake here: the tests have no GPU."""

from types import SimpleNamespace
from typing import Any

import pynvml

from aligntune.pod.gpus import Gpu, gpu_reader


class FakeLibrary(SimpleNamespace):
    """Two GPUs, by NVML's names; the second is a part of one, of whose use it tells nothing."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    lost = False

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=(handle + 1) << 30, total=80 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=90, memory=10)


def test_memory_and_use_of_each_gpu_are_read() -> None:
    read: Any = gpu_reader(FakeLibrary())
    assert read() == (Gpu(0, 1 << 30, 80 << 30, 0.9), Gpu(1, 2 << 30, 80 << 30, None))


def test_a_gpu_that_is_lost_ends_no_scrape() -> None:
    library = FakeLibrary()
    read = gpu_reader(library)
    library.lost = True
    assert read() == ()


def test_a_machine_without_a_driver_has_none() -> None:
    assert gpu_reader()() == ()
