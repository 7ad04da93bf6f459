"""Two processes on one output folder: the later attempt wins, the other notices in time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.errors import SupersededError
from aligntune.core.sft.config import SFTConfig
from aligntune.training.checkpoints import MANIFEST
from aligntune.training.context import RunContext
from aligntune.training.ownership import Ownership
from tests.trainers.tiny import MakeConfig


def test_the_last_to_take_a_folder_owns_it(tmp_path: Path) -> None:
    first = Ownership.take(tmp_path, "uid", attempt=1)
    first.check()
    second = Ownership.take(tmp_path, "uid", attempt=2)
    second.check()
    with pytest.raises(SupersededError, match="belongs to attempt 2 of uid now"):
        first.check()


def test_an_attempt_that_begins_late_does_not_take_over_from_its_successor(tmp_path: Path) -> None:
    newer = Ownership.take(tmp_path, "uid", attempt=2)
    with pytest.raises(SupersededError, match="belongs to attempt 2"):
        Ownership.take(tmp_path, "uid", attempt=1)
    newer.check()


def test_a_job_that_was_created_anew_takes_the_folder_of_the_old_one(tmp_path: Path) -> None:
    old = Ownership.take(tmp_path, "old uid", attempt=7)
    Ownership.take(tmp_path, "new uid", attempt=1).check()
    with pytest.raises(SupersededError):
        old.check()


def first_attempt(config: MakeConfig) -> tuple[SFTConfig, Path, Ownership]:
    """What is trained, where, and whose that is as yet."""
    settings = config(checkpoint={"every_steps": 2, "keep": 5})
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True)
    return settings, folder, Ownership.take(folder, "uid", attempt=1)


def test_a_pod_thought_dead_commits_no_checkpoint_once_its_successor_has_begun(
    config: MakeConfig,
) -> None:
    settings, folder, thought_dead = first_attempt(config)

    def check() -> None:
        if (folder / "checkpoint-4" / MANIFEST).exists():
            Ownership.take(folder, "uid", attempt=2)
        thought_dead.check()

    with pytest.raises(SupersededError):
        TRLSFTTrainer(settings, RunContext(check_owner=check)).train()
    complete = sorted(path.parent.name for path in folder.glob(f"checkpoint-*/{MANIFEST}"))
    assert complete == ["checkpoint-2", "checkpoint-4"]


class Paused(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not typed
    """Between a checkpoint's weights and its last file at step 4, the process sleeps meanwhile."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile = meanwhile
        self.step = 0

    def on_save(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self.step = state.global_step

    def state(self) -> dict[str, dict[str, int]]:
        if self.step == 2:
            self.meanwhile()
        return {"args": {}, "attributes": {"step": self.step}}


def test_a_pod_that_wakes_in_a_checkpoint_leaves_its_successors_one_of_that_step_as_it_is(
    config: MakeConfig,
) -> None:
    settings, folder, thought_dead = first_attempt(config)
    written: dict[Path, bytes] = {}

    def succeed() -> None:
        successor = Ownership.take(folder, "uid", attempt=2)
        TRLSFTTrainer(settings, RunContext(check_owner=successor.check)).train()
        written.update({file: file.read_bytes() for file in checkpointed(folder)})

    zombie = TRLSFTTrainer(
        settings, RunContext(check_owner=thought_dead.check), callbacks=[Paused(succeed)]
    )
    with pytest.raises(SupersededError):
        zombie.train()
    assert folder / "checkpoint-4" / MANIFEST in written
    assert {file: file.read_bytes() for file in checkpointed(folder)} == written


def checkpointed(folder: Path) -> list[Path]:
    """All files of all checkpoints, unfinished ones included."""
    return sorted(
        file
        for pattern in ("checkpoint-*", ".unfinished-*")
        for path in folder.glob(pattern)
        for file in path.rglob("*")
        if file.is_file()
    )
