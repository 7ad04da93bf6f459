import pytest

from aligntune.api.causes import Cause
from aligntune.pod.diagnosis import diagnose


@pytest.mark.parametrize(
    ("returncode", "log", "oom_killed", "cause"),
    [
        (-9, "step 3", True, Cause.OUT_OF_MEMORY),
        (137, "step 3", True, Cause.OUT_OF_MEMORY),
        (-9, "step 3", False, Cause.UNKNOWN),
        (1, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", True,
         Cause.OUT_OF_MEMORY),
        (1, "ValueError: no rows", True, Cause.UNKNOWN),
        (-7, "", False, Cause.OUT_OF_MEMORY),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", False,
         Cause.CUDA_OUT_OF_MEMORY),
        (1, "CUDA out of memory\n[rank0] NCCL error in: x.cpp", False, Cause.CUDA_OUT_OF_MEMORY),
        (-6, "Watchdog caught collective operation timeout: WorkNCCL(", False, Cause.NCCL_ERROR),
        (1, "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer", False,
         Cause.NCCL_ERROR),
        (1, "torch.distributed.DistBackendError: ncclRemoteError", False, Cause.NCCL_ERROR),
        (1, "RuntimeError: CUDA error: an illegal memory access was encountered", False,
         Cause.GPU_ERROR),
        (1, "OSError: [Errno 28] No space left on device: '/out/x'", False, Cause.DISK_FULL),
        (1, "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 18 vs 17",
         False, Cause.DISK_FULL),
        (1, "unable to write to file </torch_12_3>: No space left on device (28)", False,
         Cause.OUT_OF_MEMORY),
        (1, "GatedRepoError: 403 Client Error.", False, Cause.UNAUTHORIZED),
        (1, "RepositoryNotFoundError: 401 Client Error.", False, Cause.MODEL_NOT_FOUND),
        (1, "EntryNotFoundError: 404 Client Error.", False, Cause.MODEL_NOT_FOUND),
        (1, "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find", False,
         Cause.HUB_UNREACHABLE),
        (1, "HfHubHTTPError: 503 Server Error: Service Unavailable", False, Cause.HUB_UNREACHABLE),
        (1, "requests.HTTPError: 401 Client Error", False, Cause.UNAUTHORIZED),
        (65, "No space left on device", False, Cause.DATA_ERROR),
        (66, "", False, Cause.MODEL_NOT_FOUND),
        (77, "", False, Cause.UNAUTHORIZED),
        (78, "", False, Cause.CONFIG_ERROR),
        (70, "NCCL version 2.27\nValueError: x", False, Cause.UNKNOWN),
    ],
)  # fmt: skip
def test_cause_of_death(returncode: int, log: str, cause: Cause, *, oom_killed: bool) -> None:
    assert diagnose(returncode, log, oom_killed=oom_killed).cause is cause


def test_an_unknown_death_shows_status_and_last_line() -> None:
    log = "Traceback\nKeyError: 'prompt'"
    assert diagnose(1, log, oom_killed=False).message == "exited with code 1: KeyError: 'prompt'"
    assert diagnose(-11, log, oom_killed=False).message.startswith("killed by SIGSEGV")
