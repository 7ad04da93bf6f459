import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import ExitCode
from aligntune.api.progress import Outcome
from tests.hub.hub import WRITER, Hub
from tests.trainers.test_rank import run
from tests.trainers.tiny import MakeConfig, write_run


def test_a_push_that_fails_is_told_as_such_and_the_model_is_kept(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub cannot be reached from here, which is failure enough."""
    settings = config(train={"max_steps": 1})
    path = write_run(tmp_path / "run.json", settings, push={"repoId": "nobody/nothing"})
    code, snapshots, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.TEMPORARY, Cause.HUB_PUSH_FAILED)
    assert "nobody/nothing" in outcome.message
    assert snapshots[-1].progress.activity == "saving"  # no hang, however long an upload takes
    assert (Path(settings.output_dir) / "model" / "adapter_config.json").is_file()


def test_the_attempt_after_a_failed_push_pushes_and_trains_nothing(
    config: MakeConfig, tmp_path: Path, hub: Hub
) -> None:
    settings = config(train={"max_steps": 1})
    folder = Path(settings.output_dir)

    def launch(attempt: int, env: dict[str, str]) -> int:
        path = write_run(
            tmp_path / f"run-{attempt}.json",
            settings,
            push={"repoId": "username/my-model"},
            attempt=attempt,
            storageRoot=str(tmp_path),
        )
        command = [sys.executable, "-m", "aligntune", "launch", str(path), "--port", "0"]
        return subprocess.run(command, env=env, check=False).returncode

    def ended(attempt: int) -> Outcome:
        return Outcome.model_validate_json((folder / f"attempt-{attempt}/outcome.json").read_text())

    unreachable = hub.environment(tmp_path / "home", WRITER) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert launch(1, unreachable) == ExitCode.TEMPORARY
    assert (ended(1).reason, ended(1).model_path) == (Cause.HUB_PUSH_FAILED, "out/model")
    shutil.rmtree(folder / "checkpoint-1")
    assert launch(2, hub.environment(tmp_path / "home", WRITER)) == ExitCode.DONE
    assert ended(2).model_url == f"{hub.endpoint}/username/my-model"
    assert ended(2).step == ended(1).step == 1
    assert not (folder / "checkpoint-1").exists()
    saved = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    assert hub.repos["model", "username/my-model"].at("main").files == saved
