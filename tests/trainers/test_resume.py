"""Going on from a checkpoint: exactly, only from a complete one, only in the same run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.errors import ConfigError
from aligntune.core.sft.config import SFTConfig, SFTTrainConfig
from aligntune.training.checkpoints import MANIFEST, Checkpoints
from tests.trainers.callbacks import StopAt, asked_to_stop_in_evaluation
from tests.trainers.tiny import (
    MakeConfig,
    curve,
    launch,
    losses,
    merge,
    sums,
    wait_for_step,
    write_jsonl,
    write_run,
)


@pytest.fixture
def finished(config: MakeConfig) -> SFTConfig:
    """A run of 10 steps whose checkpoints at 4, 8 and 10 are all there."""
    settings = config(checkpoint={"every_steps": 4, "keep": 3})
    TRLSFTTrainer(settings).train()
    assert _steps(settings) == [4, 8, 10]
    return settings


def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(finished: SFTConfig) -> None:
    folder = Path(finished.output_dir)
    uninterrupted = curve(folder)
    ended = TRLSFTTrainer(finished).train()
    assert (ended.step, ended.epoch) == (10, pytest.approx(10 / 24))
    shutil.rmtree(folder / "checkpoint-10")
    weights = (folder / "checkpoint-8" / "adapter_model.safetensors").read_bytes()
    result = TRLSFTTrainer(finished).train()
    assert result.step == 10
    assert curve(folder) == uninterrupted
    assert (folder / "checkpoint-8" / "adapter_model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "damage",
    [
        lambda newest: (newest / MANIFEST).unlink(),
        lambda newest: os.truncate(newest / "optimizer.pt", 100),
        lambda newest: (newest / "rng_state.pth").unlink(),
        lambda newest: (newest / MANIFEST).write_text("{"),
    ],
    ids=["manifest missing", "file truncated", "file missing", "manifest cut off"],
)
def test_a_broken_newest_checkpoint_is_passed_over_for_the_one_before(
    finished: SFTConfig, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(finished.output_dir)
    uninterrupted = curve(folder)
    damage(folder / "checkpoint-10")
    trainer = TRLSFTTrainer(finished)
    with caplog.at_level("INFO"):
        trainer.train()
    assert f"going on from {folder / 'checkpoint-8'}" in caplog.text
    assert f"{folder / 'checkpoint-10'} is not used" in caplog.text
    assert curve(folder) == uninterrupted


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": {"learning_rate": 0.5}}, "train.learningRate was 0.001, now 0.5"),
        ({"model": {"lora": {"r": 4}}}, "model.lora was its default, now {'r': 4}"),
        ({"train": {"learning_rate": None}}, "train.learningRate was 0.001, now its default"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused_unless_forced(
    finished: SFTConfig, change: dict[str, Any], sentence: str
) -> None:
    other = SFTConfig.model_validate(merge(finished.model_dump(by_alias=False), change))
    with pytest.raises(ConfigError, match=sentence):
        TRLSFTTrainer(other).train()
    if "train" in change:
        forced = other.model_copy(
            update={"checkpoint": other.checkpoint.model_copy(update={"resume": "force"})}
        )
        assert TRLSFTTrainer(forced).train().step == 10


class LaterTrainConfig(SFTTrainConfig):
    noise: float = 0.0
    """A field of a version to come."""


class LaterConfig(SFTConfig):
    train: LaterTrainConfig = LaterTrainConfig()


def test_a_version_with_a_field_more_goes_on_with_the_run(finished: SFTConfig) -> None:
    document = finished.model_dump(by_alias=False)
    checkpoints = Checkpoints(LaterConfig.model_validate(document), world_size=1)
    assert checkpoints.to_resume() == checkpoints.path(10)
    used = LaterConfig.model_validate(merge(document, {"train": {"noise": 0.1}}))
    with pytest.raises(ConfigError, match=r"train\.noise was its default, now 0\.1"):
        Checkpoints(used, world_size=1).to_resume()


def test_a_run_that_goes_on_tells_of_another_base_or_other_rows(
    config: MakeConfig,
    tiny_model: Path,
    tiny_data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, data = (
        shutil.copytree(tiny_model, tmp_path / "m"),
        shutil.copytree(tiny_data, tmp_path / "d"),
    )
    settings = config(
        model={"name": str(model)},
        datasets=[{"name": str(data)}],
        train={"max_steps": 2},
        checkpoint={"every_steps": 1},
    )

    def told() -> list[str]:
        caplog.clear()
        TRLSFTTrainer(settings).train()
        return [line for line in caplog.messages if line.startswith("changed since")]

    remedy = "and checkpoint.resume: never begins anew"
    assert told() == told() == []
    write_jsonl(data / "train.jsonl", sums(90, seed=2))
    ended = f"changed since checkpoint-2 was saved: datasets; nothing is left to train, {remedy}"
    assert told() == [ended]
    os.utime(model / "model.safetensors")
    shutil.rmtree(Path(settings.output_dir) / "checkpoint-2")
    manifest = Path(settings.output_dir) / "checkpoint-1" / MANIFEST
    changed = "changed since checkpoint-1 was saved: model, datasets"
    assert told() == [f"{changed}; training goes on from there, {remedy}"]
    shutil.rmtree(Path(settings.output_dir) / "checkpoint-2")
    older = json.loads(manifest.read_text())
    del older["inputs"]
    older["configHash"] = "0" * 64  # a field that is no more
    manifest.write_text(json.dumps(older))
    assert told() == []


def test_half_the_rows_in_twice_the_passes_go_on_as_the_same_run(finished: SFTConfig) -> None:
    folder = Path(finished.output_dir)
    uninterrupted = losses(folder)
    shutil.rmtree(folder / "checkpoint-8")
    shutil.rmtree(folder / "checkpoint-10")
    train = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2}
    halved = SFTConfig.model_validate(merge(finished.model_dump(by_alias=False), {"train": train}))
    TRLSFTTrainer(halved).train()
    assert losses(folder) == pytest.approx(uninterrupted, rel=1e-5)


def test_a_checkpoint_of_another_strategy_is_refused(finished: SFTConfig) -> None:
    sharded = SFTConfig.model_validate(
        merge(finished.model_dump(by_alias=False), {"distributed": {"strategy": "zero2"}})
    )
    with pytest.raises(ConfigError, match="its strategy is ddp, now zero2"):
        Checkpoints(sharded, world_size=1).to_resume()


def test_never_starts_anew_and_leaves_no_checkpoint_of_the_past(finished: SFTConfig) -> None:
    anew = finished.model_copy(
        update={"checkpoint": finished.checkpoint.model_copy(update={"resume": "never"})}
    )
    before = (Path(anew.output_dir) / "checkpoint-4" / MANIFEST).stat().st_mtime_ns
    TRLSFTTrainer(anew).train()
    assert _steps(anew) == [4, 8, 10]
    assert (Path(anew.output_dir) / "checkpoint-4" / MANIFEST).stat().st_mtime_ns > before


def test_a_chosen_checkpoint_can_be_loaded_and_one_saved_by_hand(finished: SFTConfig) -> None:
    uninterrupted = curve(Path(finished.output_dir))
    trainer = TRLSFTTrainer(finished)
    trainer.load_checkpoint(Path(finished.output_dir) / "checkpoint-4")
    trainer.train()
    assert curve(Path(finished.output_dir)) == uninterrupted
    assert trainer.save_checkpoint() == Path(finished.output_dir) / "checkpoint-10"


def test_a_stopped_trainer_goes_on_from_where_it_stopped_not_from_what_was_loaded_before(
    finished: SFTConfig,
) -> None:
    uninterrupted = curve(Path(finished.output_dir))
    trainer = TRLSFTTrainer(finished, callbacks=[StopAt(7)])
    trainer.load_checkpoint(Path(finished.output_dir) / "checkpoint-4")
    first = trainer.train()
    assert (first.preempted, first.step) == (True, 7)
    second = trainer.train()
    assert (second.preempted, second.step) == (False, 10)
    assert curve(Path(finished.output_dir)) == uninterrupted


def test_a_run_that_stopped_early_stays_stopped_when_it_is_started_again(
    config: MakeConfig,
) -> None:
    settings = config(
        model={"tuning": "full"},
        train={"max_steps": 50, "learning_rate": 0.3, "lr_scheduler": "constant"},
        evaluation={"split_ratio": 0.2, "every_steps": 2, "early_stopping_patience": 2},
    )
    first = TRLSFTTrainer(settings).train()
    second = TRLSFTTrainer(settings).train()
    assert first.stopped_early
    assert second.stopped_early
    assert (second.step, second.samples_per_second) == (first.step, 0)


def test_only_the_newest_checkpoints_are_kept(config: MakeConfig) -> None:
    settings = config(checkpoint={"every_steps": 2, "keep": 2})
    TRLSFTTrainer(settings).train()
    assert _steps(settings) == [8, 10]


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_checkpoints_of_another_program_are_left_alone(config: MakeConfig, resume: str) -> None:
    settings = config(checkpoint={"every_steps": 2, "keep": 2, "resume": resume})
    folder = Path(settings.output_dir)
    for step in (10, 500):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "model.safetensors").write_text(f"weights at {step}")
    TRLSFTTrainer(settings).train()
    complete = {path.parent.name for path in folder.glob(f"checkpoint-*/{MANIFEST}")}
    assert complete == {"checkpoint-8", "checkpoint-10"}
    assert (folder / "checkpoint-500" / "model.safetensors").read_text() == "weights at 500"
    [moved] = folder.glob("checkpoint-10-found-*")
    assert (moved / "model.safetensors").read_text() == "weights at 10"


def test_a_checkpoint_that_was_removed_by_half_is_removed_by_the_next_attempt(
    finished: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(finished, world_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as where it is killed before
        checkpoints.clean(checkpoints.path(4))
    assert _steps(finished) == [4]
    checkpoints.clean(checkpoints.path(4))
    kept = {path.name for path in Path(finished.output_dir).iterdir() if path.is_dir()}
    assert kept == {"checkpoint-4"}


def test_a_run_asked_to_stop_while_it_evaluates_stops_there_and_resumes_exactly(
    config: MakeConfig,
) -> None:
    settings = config(evaluation={"split_ratio": 0.2, "every_steps": 4, "keep_best": True})
    TRLSFTTrainer(settings).train()
    parts = settings.model_copy(update={"output_dir": f"{settings.output_dir}-parts"})
    stopped = TRLSFTTrainer(parts, asked_to_stop_in_evaluation()).train()
    assert (stopped.preempted, stopped.step) == (True, 4)
    assert "eval_loss" not in stopped.metrics
    assert _steps(parts) == [4]
    assert TRLSFTTrainer(parts).train().step == 10
    assert curve(Path(parts.output_dir)) == curve(Path(settings.output_dir))


def test_two_ranks_stop_together_and_resume_exactly(config: MakeConfig, tmp_path: Path) -> None:
    """SIGTERM reaches one rank only; both save, exit 143, and go on as if nothing had been."""
    whole = config(train={"max_steps": 60, "per_device_batch_size": 2})
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)

    complete = write_run(tmp_path / "whole.json", whole, processesPerNode=2)
    assert [rank.wait() for rank in launch(complete, tmp_path, 2)] == [0, 0]

    ranks = launch(run, tmp_path, 2)
    wait_for_step(Path(parts.output_dir), 7)
    ranks[1].terminate()
    assert [rank.wait() for rank in ranks] == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    stopped = len(curve(Path(parts.output_dir)))
    assert 7 <= stopped < 60
    assert _steps(parts) == [stopped]

    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))

    with pytest.raises(ConfigError, match="trained by 2 processes, now 1"):
        TRLSFTTrainer(parts).train()
    plain = config(train={"max_steps": 60}, output_dir=whole.output_dir + "-plain")
    TRLSFTTrainer(plain).train()
    expected = losses(Path(plain.output_dir))
    assert losses(Path(whole.output_dir)) == pytest.approx(expected, rel=1e-3)


def _steps(settings: SFTConfig) -> list[int]:
    return sorted(int(p.name[11:]) for p in Path(settings.output_dir).glob("checkpoint-*"))
