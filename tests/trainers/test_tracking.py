"""Experiment trackers: a restarted run goes on in the run that it began."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligntune.api.exit_codes import ExitCode
from aligntune.api.progress import Snapshot
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.errors import ConfigError
from aligntune.training.tracking import RUNS
from tests.trainers.tiny import MakeConfig, write_run

ATTEMPT = """
import sys
from pathlib import Path
from aligntune.api.manifest import read_run_config
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.training.context import RunContext

told = []
run = read_run_config(Path(sys.argv[1]))
trainer = TRLSFTTrainer(run.sft, RunContext("the-job", told.append))
trainer.train()
trainer.evaluate()
print("TOLD", told[-1].model_dump_json())
"""


@pytest.fixture(autouse=True)
def _files_are_store_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow wants a database by now, and the small package has none."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def attempt(config: Any, folder: Path, **env: str) -> Snapshot:
    """One attempt in a process of its own, as trackers keep what they know in the process."""
    run = write_run(folder / "run.json", config)
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(run)],
        env={**os.environ, **env},
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    [told] = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    return Snapshot.model_validate_json(told.removeprefix("TOLD"))


def test_mlflow_shows_all_attempts_as_one_run(config: MakeConfig, tmp_path: Path) -> None:
    store = (tmp_path / "mlruns").as_uri()
    settings = {"trackers": ["mlflow"], "project": "sums", "every_steps": 1}
    short = config(logging=settings, train={"max_steps": 2}, checkpoint={"resume": "force"})
    attempt(short, tmp_path, MLFLOW_TRACKING_URI=store)
    longer = config(logging=settings, train={"max_steps": 4}, checkpoint={"resume": "force"})
    attempt(longer, tmp_path, MLFLOW_TRACKING_URI=store)

    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sums")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "the-job"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [1, 2, 3, 4]


def test_mlflow_shows_the_last_evaluation_in_the_run_of_its_training(
    config: MakeConfig, tmp_path: Path
) -> None:
    store = (tmp_path / "mlruns").as_uri()
    settings = {"trackers": ["mlflow"], "project": "sums"}
    held_out = {"split_ratio": 0.1}
    attempt(config(logging=settings, evaluation=held_out), tmp_path, MLFLOW_TRACKING_URI=store)

    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sums")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert {"loss", "eval_loss"} <= run.data.metrics.keys()
    assert run.info.status == "FINISHED"


def test_wandb_goes_on_with_its_run_unless_training_starts_anew(
    config: MakeConfig, tmp_path: Path
) -> None:
    """Offline: what would be sent later stands in a folder that is named after the run."""
    settings = {"trackers": ["wandb"], "every_steps": 1}
    first = config(logging=settings, train={"max_steps": 2})
    path = Path(first.output_dir) / RUNS

    def run_of(resume: str) -> str:
        again = first.model_copy(
            update={"checkpoint": first.checkpoint.model_copy(update={"resume": resume})}
        )
        attempt(again, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
        return str(json.loads(path.read_text())["wandb"])

    begun = run_of("auto")
    assert run_of("auto") == begun
    assert run_of("never") != begun
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{begun}"))) == 2
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 3


@pytest.mark.parametrize("user", ["", "mara:secret@"])
def test_the_run_has_a_page_without_a_password_where_the_tracker_is_a_server(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    import mlflow

    from aligntune.training.tracking import Tracked

    told: list[dict[str, str]] = []
    settings = config(logging={"trackers": ["mlflow"]})
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    Path(settings.output_dir).mkdir()
    with mlflow.start_run() as run:
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"https://{user}mlflow.example/")
        state = type("State", (), {"is_world_process_zero": True})
        Tracked(settings.logging, settings.output_dir, told.append).on_train_begin(None, state)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert told == [{"mlflow": f"https://mlflow.example/{page}"}]


def test_a_tracker_that_is_not_installed_is_refused(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = config(logging={"trackers": ["wandb"]})
    with pytest.raises(ConfigError, match="trackers: wandb: needs the package wandb, which is not"):
        TRLSFTTrainer(settings).setup_model()


@pytest.mark.parametrize("key", [{}, {"WANDB_API_KEY": "short"}])
def test_wandb_without_a_key_is_refused_before_the_model_is_loaded(
    config: MakeConfig, tmp_path: Path, key: dict[str, str]
) -> None:
    """In a process of its own, as wandb reads the environment once."""
    settings = config(logging={"trackers": ["wandb"]}, model={"name": "/models/none"})
    run = write_run(tmp_path / "run.json", settings)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "aligntune.pod.rank", str(run)],
        env=kept | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")} | key,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.BAD_CONFIG
    assert "logging.trackers: wandb: there is no key, or none that is valid; set" in done.stderr
    assert "Traceback" not in done.stderr
