import resource
from pathlib import Path

import pytest

from aligntune.api.causes import Cause
from aligntune.pod.attempt import CannotStartError, make_attempt_folder, read_run_config

YAML = """
sft:
  model: {name: tiny}
  datasets: [{name: rows.jsonl}]
  train: {learningRate: 2e-4}
  outputDir: %s
attempt: 3
"""


def config_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    from_yaml = read_run_config(config_file(tmp_path, YAML % "out"))
    json_file = tmp_path / "run.json"
    json_file.write_text(from_yaml.model_dump_json())
    assert read_run_config(json_file) == from_yaml
    assert from_yaml.sft is not None
    assert from_yaml.sft.train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sft: {model: [", ":1: malformed YAML: "),
        ('{"sft": ', ":1: malformed JSON: "),
        ("sft: {modle: {name: x}}", "sft.modle"),
        ("just text", "run.yaml"),
        ("", "run.yaml"),
    ],
)
def test_a_wrong_config_is_one_sentence_with_the_place(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(CannotStartError, match=r"run\.yaml:") as caught:
        read_run_config(config_file(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.cause is Cause.CONFIG_ERROR


def test_a_missing_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CannotStartError, match=r"gone\.json: cannot be read: No such file"):
        read_run_config(tmp_path / "gone.json")


def test_the_attempt_has_its_own_folder(tmp_path: Path) -> None:
    config = read_run_config(config_file(tmp_path, YAML % (tmp_path / "out")))
    assert make_attempt_folder(config) == tmp_path / "out" / "attempt-3"
    assert list(make_attempt_folder(config).iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = read_run_config(config_file(tmp_path, YAML % (tmp_path / "file" / "out")))
    with pytest.raises(
        CannotStartError, match=r"file/out/attempt-3 cannot be written .* writable for user"
    ):
        make_attempt_folder(config)


def test_a_full_disk_is_no_mistake_in_the_config(tmp_path: Path) -> None:
    config = read_run_config(config_file(tmp_path, YAML % (tmp_path / "out")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))  # a file grows no further
    try:
        with pytest.raises(CannotStartError, match="the disk is full: make the volume") as caught:
            make_attempt_folder(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.cause is Cause.DISK_FULL
