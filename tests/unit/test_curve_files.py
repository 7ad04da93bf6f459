"""Numbers that a run leaves: loss and the like of each step, and what the method measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligntune.core.training_state import TrainingState
from aligntune.training.progress import RunProgress, StepTotals

Begin = Callable[[int], RunProgress]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    def from_step(step: int) -> RunProgress:
        progress = RunProgress(
            TrainingState(), lambda _: None, first_process=True, log_every_steps=1
        )
        progress.begin(tmp_path, step, step / 4, 4, None)
        return progress

    return from_step


def test_rewards_are_kept_beside_the_loss_curve(begin: Begin, tmp_path: Path) -> None:
    progress = begin(0)
    progress.stepped(1, 0.1, StepTotals(2.0, 1.0, 0.1, 1, 1))
    progress.logged({"loss": 2.0, "reward_mean": 0.25, "kl": 0.01})
    progress.logged({"eval_loss": 1.0})
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 2.0, "gradNorm": 1.0, "learningRate": 0.1}
    ]
    assert lines(tmp_path / "measured.jsonl") == [
        {"step": 1, "rewardMean": 0.25, "kl": 0.01},
        {"step": 1, "evalLoss": 1.0},
    ]


def test_what_is_measured_after_a_checkpoint_is_forgotten_when_it_is_gone_back_to(
    begin: Begin, tmp_path: Path
) -> None:
    progress = begin(0)
    for step in (1, 2, 3):
        progress.stepped(step, 0.1, StepTotals(2.0, 1.0, 0.1, 1, 1))
        progress.logged({"reward_mean": step / 10})
    again = begin(2)
    again.stepped(3, 0.1, StepTotals(2.0, 1.0, 0.1, 1, 1))
    again.logged({"reward_mean": 0.5})
    measured = [(line["step"], line["rewardMean"]) for line in lines(tmp_path / "measured.jsonl")]
    assert measured == [(1, 0.1), (2, 0.2), (3, 0.5)]


def test_a_later_rank_reports_its_steps_to_its_own_launcher_and_writes_nothing(
    tmp_path: Path,
) -> None:
    """A launcher finds a hang by them, and each pod of a gang has one."""
    seen: list[Any] = []
    progress = RunProgress(
        TrainingState(), seen.append, first_process=False, log_every_steps=1, clock=lambda: 0.0
    )
    progress.begin(tmp_path, 0, 0.0, 4, None)
    progress.stepped(1, 0.1, StepTotals(2.0, 1.0, 0.1, 1, 1))
    assert [(one.progress.activity, one.progress.step) for one in seen] == [
        ("training", 0),
        ("training", 1),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_hang_after_generation_is_one_of_training(tmp_path: Path) -> None:
    seen: list[Any] = []
    progress = RunProgress(
        TrainingState(), seen.append, first_process=True, log_every_steps=1, clock=lambda: 0.0
    )
    progress.begin(tmp_path, 0, 0.0, 4, None)
    with progress.doing("generating"):
        assert seen[-1].progress.activity == "generating"
    assert seen[-1].progress.activity == "training"
