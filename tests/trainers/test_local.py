"""`aligntune run`: a manifest on this machine, through launcher, endpoint and reducer, for real."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.cluster.processes import wait_until
from tests.trainers.tiny import curve, wait_for_step

Job = dict[str, Any]


@pytest.fixture
def job(tiny_model: Path) -> Job:
    """A manifest whose model and data are on volumes, as on a cluster."""
    return {
        "apiVersion": "aligntune.io/v1alpha1",
        "kind": "AlignTuneJob",
        "metadata": {"name": "sums"},
        "spec": {
            "sft": {
                "model": {"name": f"/models/{tiny_model.name}"},
                "datasets": [{"name": "/data"}],
                "train": {"maxSteps": 20, "learningRate": 1e-3},
                "checkpoint": {"everySteps": 5},
                "logging": {"everySteps": 1},
            },
            "runtime": {
                "gpusPerNode": 0,
                "volumes": [
                    {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                ],
                "volumeMounts": [
                    {"name": "models", "mountPath": "/models"},
                    {"name": "data", "mountPath": "/data"},
                ],
            },
            "storage": {"claimName": "output"},
        },
    }


@pytest.fixture
def start(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Any:
    """Starts `aligntune run` on a manifest."""

    def run(job: Job) -> subprocess.Popen[str]:
        file = tmp_path / "job.yaml"
        YAML().dump(job, file)
        return subprocess.Popen(
            [sys.executable, "-m", "aligntune", "run", str(file),
             "--output", str(tmp_path / "runs"),
             "--volume", f"models={tiny_model.parent}", "--volume", f"data={tiny_data}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )  # fmt: skip

    return run


def finish(process: subprocess.Popen[str]) -> tuple[int, Job, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, YAML(typ="safe").load(out)["status"] if out else {}, err


def test_a_job_is_trained_and_its_status_is_the_resources(
    start: Any, job: Job, tmp_path: Path
) -> None:
    code, status, err = finish(start(job))
    assert code == 0, err
    assert status["phase"] == "Succeeded"
    assert status["summary"]["progress"] == "20/20"
    assert {c["type"] for c in status["conditions"] if c["status"] == "True"} == {
        "Accepted", "Complete", "Finished", "Resumable",
    }  # fmt: skip
    assert (tmp_path / "runs" / status["model"]["path"] / "adapter_config.json").is_file()
    steps = curve(tmp_path / "runs" / "sums")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert "sums: Running" in err


def test_a_wrong_model_is_a_sentence_and_an_exit_code(start: Any, job: Job) -> None:
    job["spec"]["sft"]["model"]["name"] = "/models/absent"
    code, status, err = finish(start(job))
    assert code == 66
    assert status["failure"]["reason"] == "ModelNotFound"
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("ModelNotFound: ")


def test_sigterm_saves_a_checkpoint_and_the_next_run_goes_on_from_it(
    start: Any, job: Job, tmp_path: Path
) -> None:
    job["spec"]["sft"]["train"]["maxSteps"] = 200
    process = start(job)
    wait_for_step(tmp_path / "runs" / "sums", 3)
    process.send_signal(signal.SIGTERM)
    code, status, _ = finish(process)
    assert code == 143
    assert status["phase"] == "Suspended"
    assert "failure" not in status
    reached = status["checkpoint"]["step"]
    assert reached >= 3

    code, status, err = finish(start(job))
    assert code == 0, err
    assert status["summary"]["progress"] == "200/200"
    assert len(curve(tmp_path / "runs" / "sums")) == 200
    log = (tmp_path / "runs" / "sums" / "attempt-1" / "rank-0.log").read_text()
    assert f"checkpoint-{reached}" in log


def test_a_second_interrupt_does_not_wait_for_the_checkpoint(
    start: Any, job: Job, tmp_path: Path
) -> None:
    job["spec"]["sft"]["train"]["maxSteps"] = 10_000
    process = start(job)
    wait_for_step(tmp_path / "runs" / "sums", 3)
    below = psutil.Process(process.pid).children(recursive=True)
    [rank] = [child for child in below if "aligntune.pod.rank" in child.cmdline()]
    rank.suspend()  # a rank that hangs saves no checkpoint
    # Of two signals that are pending at once the kernel would deliver SIGTERM first.
    wait_until("the rank stands still", lambda: rank.status() == psutil.STATUS_STOPPED)
    process.send_signal(signal.SIGINT)
    wait_until("the rank is asked to end", lambda: has_pending(rank.pid, signal.SIGTERM))
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, status, _ = finish(process)
    assert code == 143
    assert status["phase"] == "Suspended"
    assert not rank.is_running()


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process that stands still has been sent a signal (proc(5), ShdPnd)."""
    [mask] = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_progress_is_asked_for_past_any_proxy(
    start: Any, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    job["spec"]["sft"]["train"]["maxSteps"] = 10_000
    process = start(job)
    assert process.stderr is not None
    told = next(line for line in process.stderr if re.search(r"Running.* \d+/10000", line))
    process.send_signal(signal.SIGTERM)
    code, _, _ = finish(process)
    assert code == 143, told


def test_two_processes_share_a_run_through_the_launcher(
    start: Any, job: Job, tmp_path: Path
) -> None:
    job["spec"]["runtime"]["processesPerNode"] = 2
    code, status, err = finish(start(job))
    assert code == 0, err
    assert status["summary"]["progress"] == "20/20"
    attempt = tmp_path / "runs" / "sums" / "attempt-1"
    assert {file.name for file in attempt.glob("rank-*.log")} == {"rank-0.log", "rank-1.log"}
    assert json.loads((attempt / "run.json").read_text())["processesPerNode"] == 2
