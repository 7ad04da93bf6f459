import os
import threading
from pathlib import Path

import pytest
from huggingface_hub import file_download

from aligntune.core.config.model import ModelRef
from aligntune.pod.read_ahead import CHUNK, read_ahead, stored_weights

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LONGEST = 30.0
"""Seconds until a thread that was told to end has ended."""


def model_in(folder: Path) -> list[Path]:
    """A folder with two shards; returns their paths."""
    folder.mkdir(parents=True)
    for name in (*reversed(SHARDS), "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return [folder / name for name in SHARDS]


def test_a_folders_weights_are_read_in_the_order_of_loading(tmp_path: Path) -> None:
    assert stored_weights(ModelRef(name=str(tmp_path / "m"))) == []
    shards = model_in(tmp_path / "m")
    assert stored_weights(ModelRef(name=str(tmp_path / "m"))) == shards


def test_a_model_without_a_place_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_in(tmp_path / "m")
    monkeypatch.chdir(tmp_path / "m")
    assert stored_weights(ModelRef(from_job="chat")) == []


def test_weights_of_the_hub_are_read_once_they_are_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--org--m"
    assert stored_weights(ModelRef(name="org/m")) == []
    shards = model_in(repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    assert stored_weights(ModelRef(name="org/m")) == shards
    assert stored_weights(ModelRef(name="org/m", revision="v2")) == []


def test_files_are_read_to_their_end_and_one_after_the_other(tmp_path: Path) -> None:
    """A pipe takes more than its buffer only where somebody reads it."""
    pipes = [tmp_path / name for name in SHARDS]
    for pipe in pipes:
        os.mkfifo(pipe)
    with read_ahead(pipes):
        for pipe in pipes:
            pipe.write_bytes(b"\0" * CHUNK)


def test_reading_ends_with_the_block() -> None:
    others = set(threading.enumerate())
    with read_ahead([Path("/dev/zero")]):
        (thread,) = set(threading.enumerate()) - others
    thread.join(LONGEST)
    assert not thread.is_alive()


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    pipe = tmp_path / SHARDS[1]
    os.mkfifo(pipe)
    with read_ahead([tmp_path / SHARDS[0], tmp_path, pipe]):
        pipe.write_bytes(b"\0" * CHUNK)
