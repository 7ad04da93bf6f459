"""One rank, from its config file to its exit code: what is reported, and what a mistake gets."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aligntune.api.causes import Cause
from aligntune.api.env import REPORT_FD
from aligntune.api.exit_codes import ExitCode
from aligntune.api.progress import Outcome, Report, Snapshot
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.backend_factory import trainer_for
from aligntune.pod import rank
from aligntune.training.checkpoints import broken
from aligntune.training.context import RunContext
from tests.trainers.callbacks import AtEnd
from tests.trainers.tiny import MakeConfig, curve, launch, wait_for_step, write_jsonl, write_run


def run(
    path: Path, monkeypatch: pytest.MonkeyPatch, find_trainer: rank.FindTrainer = trainer_for
) -> tuple[int, list[Snapshot], Outcome]:
    """Train in this process; the exit code and what the launcher would have been told."""
    reading, writing = os.pipe()
    with monkeypatch.context() as patch, os.fdopen(reading) as lines:
        patch.setenv(REPORT_FD, str(writing))
        code = rank.train(path, find_trainer)
        os.close(writing)
        reports = [Report.model_validate_json(line) for line in lines]
    assert reports[-1].outcome is not None
    return code, [one.snapshot for one in reports if one.snapshot], reports[-1].outcome


def test_a_run_is_reported_from_loading_to_the_saved_model(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(evaluation={"split_ratio": 0.2, "every_steps": 5})
    path = write_run(tmp_path / "run.json", settings, storageRoot=str(tmp_path))
    code, snapshots, outcome = run(path, monkeypatch)
    assert (code, outcome.result) == (ExitCode.DONE, "Succeeded")
    activities = [snapshot.progress.activity for snapshot in snapshots]
    order = ["loading", "starting", "training", "evaluating", "checkpointing", "saving"]
    assert list(dict.fromkeys(activities)) == order
    last = snapshots[-1]
    assert (last.progress.step, last.progress.total_steps, last.progress.percent) == (10, 10, 100)
    assert {"loss", "evalLoss", "learningRate", "gradNorm"} <= set(last.metrics)
    assert outcome.metrics["evalLoss"] == pytest.approx(last.metrics["evalLoss"])
    assert outcome.checkpoint is not None
    assert (outcome.checkpoint.step, outcome.checkpoint.path) == (10, "out/checkpoint-10")
    assert outcome.model_path == "out/model"
    assert (tmp_path / outcome.model_path / "adapter_config.json").is_file()


def test_no_hang_is_looked_for_once_the_last_step_is_made(config: MakeConfig) -> None:
    told: list[Snapshot] = []
    at_end: list[str] = []
    uploads = AtEnd(lambda: at_end.append(told[-1].progress.activity))
    settings = config(train={"max_steps": 1})
    TRLSFTTrainer(settings, RunContext(report=told.append), [uploads]).train()
    assert at_end == ["saving"]


@pytest.mark.parametrize(
    ("sections", "cause", "code", "sentence"),
    [
        (
            {"model": {"name": "/models/none"}},
            Cause.MODEL_NOT_FOUND,
            ExitCode.NOT_FOUND,
            "model.name '/models/none': there is no such folder",
        ),
        (
            {"model": {"name": "nobody/no-such-model"}},
            Cause.MODEL_NOT_FOUND,
            ExitCode.NOT_FOUND,
            "model.name 'nobody/no-such-model': main is not in the cache, and HF_HUB_OFFLINE",
        ),
        (
            {"datasets": [{"name": "/data/none.jsonl"}]},
            Cause.MODEL_NOT_FOUND,
            ExitCode.NOT_FOUND,
            "datasets[0].name '/data/none.jsonl': there is no such file or folder",
        ),
        (
            {"datasets": [{"name": "{tmp}/odd.jsonl"}]},
            Cause.DATA_ERROR,
            ExitCode.BAD_DATA,
            "no shape fits the columns answer, question. Accepted are messages: messages;",
        ),
        (
            {"datasets": [{"name": "{tmp}/broken.jsonl"}]},
            Cause.DATA_ERROR,
            ExitCode.BAD_DATA,
            "line 2 is no JSON",
        ),
        (
            {"model": {"max_length": 8}},
            Cause.DATA_ERROR,
            ExitCode.BAD_DATA,
            "all 96 rows have nothing to learn, or it lies beyond model.maxLength",
        ),
        (
            {"output_dir": "{tmp}/odd.jsonl/out"},
            Cause.CONFIG_ERROR,
            ExitCode.BAD_CONFIG,
            "cannot be written (Not a directory); make it writable for user",
        ),
        (
            {"train": {"precision": "fp16"}},
            Cause.CONFIG_ERROR,
            ExitCode.BAD_CONFIG,
            "train.precision: fp16 needs a GPU",
        ),
        (
            {"model": {"quantization": {"bits": 4}}},
            Cause.CONFIG_ERROR,
            ExitCode.BAD_CONFIG,
            "model.quantization: needs a GPU",
        ),
        (
            {"train": {"optimizer": "adamw_8bit"}},
            Cause.CONFIG_ERROR,
            ExitCode.BAD_CONFIG,
            "train.optimizer: adamw_8bit: needs a GPU",
        ),
        (
            {"distributed": {"strategy": "fsdp2"}},
            Cause.CONFIG_ERROR,
            ExitCode.BAD_CONFIG,
            "distributed.strategy: fsdp2 shares one model among several processes",
        ),
        (
            {"task": "text_classification"},
            Cause.DATA_ERROR,
            ExitCode.BAD_DATA,
            "no shape fits the columns completion, prompt. Accepted are text-label_text: text +",
        ),
    ],
)
def test_a_mistake_gets_its_cause_exit_code_and_one_sentence_without_a_traceback(
    config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sections: dict[str, Any],
    cause: Cause,
    code: ExitCode,
    sentence: str,
) -> None:
    write_jsonl(tmp_path / "odd.jsonl", [{"question": "1", "answer": "2"}])
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    settings = config(**json.loads(json.dumps(sections).replace("{tmp}", str(tmp_path))))
    exit_code, _, outcome = run(write_run(tmp_path / "run.json", settings), monkeypatch)
    assert (outcome.result, outcome.reason, exit_code) == ("Failed", cause, code)
    assert sentence in outcome.message
    assert "\n" not in outcome.message
    assert "Traceback" not in caplog.text


def test_a_config_file_with_mistakes_is_told_where_they_are(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.json", config())
    document = json.loads(path.read_text())
    document["sft"]["train"]["learningRat"] = 1
    path.write_text(json.dumps(document))
    code, _, outcome = run(path, monkeypatch)
    assert code == ExitCode.BAD_CONFIG
    assert "sft.train.learningRat: unknown field; did you mean 'learningRate'?" in outcome.message
    code, _, outcome = run(tmp_path / "none.json", monkeypatch)
    assert code == ExitCode.BAD_CONFIG
    code, _, outcome = run(write_run(path, config(), processesPerNode=2), monkeypatch)
    assert "2 processes are asked for and 1 started" in outcome.message


def test_debug_shows_the_traceback_of_a_mistake_too(
    config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ALIGNTUNE_DEBUG", "1")
    run(write_run(tmp_path / "run.json", config(model={"name": "/models/none"})), monkeypatch)
    assert "ModelNotFoundError" in caplog.text


def test_a_call_that_ends_the_process_is_a_failure(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.json", config())
    code, _, outcome = run(path, monkeypatch, find_trainer=lambda *_: sys.exit(0))
    assert (code, outcome.result, outcome.reason) == (70, "Failed", Cause.UNKNOWN)
    assert outcome.message == "SystemExit: 0"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A file that grows beyond `size` bytes fails to be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before_and_no_half(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(checkpoint={"every_steps": 4})
    path = write_run(tmp_path / "run.json", settings)
    folder = Path(settings.output_dir)
    with largest_file(40_000):  # less than optimizer.pt
        code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.SOFTWARE, Cause.DISK_FULL)
    assert outcome.message.startswith("the disk is full")
    assert list(folder.glob("checkpoint-*")) == []
    assert run(path, monkeypatch)[0] == ExitCode.DONE


def test_a_disk_that_fills_up_in_the_model_leaves_the_old_model_whole(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    path = write_run(tmp_path / "run.json", settings)
    assert run(path, monkeypatch)[0] == ExitCode.DONE
    model = Path(settings.output_dir) / "model"
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    with largest_file(20_000):  # less than the adapters, and nothing is left to train
        code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.SOFTWARE, Cause.DISK_FULL)
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert [p.name for p in Path(settings.output_dir).iterdir() if p.name.startswith(".")] == []


def test_sigterm_exits_143_and_the_next_attempt_repeats_the_uninterrupted_run(
    config: MakeConfig, tmp_path: Path
) -> None:
    whole = config(train={"max_steps": 300})
    [uninterrupted] = launch(write_run(tmp_path / "whole.json", whole), tmp_path)
    assert uninterrupted.wait() == ExitCode.DONE
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    path = write_run(tmp_path / "parts.json", parts)
    [first] = launch(path, tmp_path)
    wait_for_step(Path(parts.output_dir), 7)
    first.terminate()
    assert first.wait() == ExitCode.PREEMPTED
    [checkpoint] = Path(parts.output_dir).glob("checkpoint-*")
    assert not broken(checkpoint)
    [second] = launch(path, tmp_path)
    assert second.wait() == ExitCode.DONE
    assert f"going on from {checkpoint}" in second.output
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_no_step_is_double(
    config: MakeConfig, tmp_path: Path
) -> None:
    settings = config(train={"max_steps": 300}, checkpoint={"every_steps": 20})
    path = write_run(tmp_path / "run.json", settings)
    [first] = launch(path, tmp_path)
    wait_for_step(Path(settings.output_dir), 50)
    first.kill()
    first.wait()
    [second] = launch(path, tmp_path)
    assert second.wait() == ExitCode.DONE
    assert len(curve(Path(settings.output_dir))) == 300


def test_the_module_is_a_program(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "aligntune.pod.rank", str(tmp_path / "none.json")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.BAD_CONFIG
    assert "none.json: cannot be read: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_configs_and_factory_come_without_torch() -> None:
    program = (
        "import sys, aligntune, aligntune.api.run, aligntune.core.backend_factory as factory,"
        " aligntune.core.sft.trainer_base, aligntune.pod.rank;"
        "factory.get_backend_status(); factory.list_backends();"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'kopf'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
