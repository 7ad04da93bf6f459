from pathlib import Path

import pytest

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import ExitCode
from tests.trainers.test_rank import run
from tests.trainers.tiny import MakeConfig, write_run


def test_a_push_that_fails_is_told_as_such_and_the_model_is_kept(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub cannot be reached from here, which is failure enough."""
    settings = config(train={"max_steps": 1})
    path = write_run(tmp_path / "run.json", settings, push={"repoId": "nobody/nothing"})
    code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.TEMPORARY, Cause.HUB_PUSH_FAILED)
    assert "nobody/nothing" in outcome.message
    assert (Path(settings.output_dir) / "model" / "adapter_config.json").is_file()
