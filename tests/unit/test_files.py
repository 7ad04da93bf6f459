"""Folders that others rely on: put in their place as a whole, or not at all."""

from pathlib import Path

import pytest

from aligntune.core.errors import SupersededError
from aligntune.core.files import publish, replace_folder


def test_who_wakes_while_it_writes_leaves_what_its_successor_has_published(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def successors(unfinished: Path) -> None:
        (unfinished / "weights").write_text("new")

    def interrupted(unfinished: Path) -> None:
        (unfinished / "weights").write_text("old")
        publish(folder, successors)
        (unfinished / "tokenizer").write_text("old")

    def taken_over() -> None:
        raise SupersededError("it is another's")

    with pytest.raises(SupersededError):
        publish(folder, interrupted, taken_over)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"weights": "new"}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_stands_there_stays_where_the_new_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "gone", folder)
    assert list(tmp_path.iterdir()) == [folder]
