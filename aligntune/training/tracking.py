"""Experiment trackers: where they write, the same run after a restart, and its page."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from transformers import TrainerCallback

from aligntune.core.config.training import LoggingConfig
from aligntune.core.errors import ConfigError
from aligntune.core.files import replace_file
from aligntune.training.machine import require

Tracker = Literal["wandb", "mlflow"]
RUNS = "tracker-runs.json"
"""Which run of each tracker this one is, in the run's output folder."""
RUN_ID: dict[Tracker, str] = {"wandb": "WANDB_RUN_ID", "mlflow": "MLFLOW_RUN_ID"}


def point_trackers(logging: LoggingConfig, output_dir: str, *, anew: bool) -> None:
    """Tell the trackers, which listen to nothing but the environment, where to write.

    TensorBoard's files go to `<output_dir>/tensorboard`. W&B and MLflow go on with the run that an
    earlier attempt began, unless the run starts `anew`.

    Raises:
        ConfigError: A tracker's package is not installed, or W&B has no key.
    """
    for tracker in logging.trackers:
        require(tracker, f"logging.trackers: {tracker}")
    if "tensorboard" in logging.trackers:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(output_dir) / "tensorboard")
    if logging.project is not None:
        os.environ["WANDB_PROJECT"] = logging.project
        os.environ["MLFLOW_EXPERIMENT_NAME"] = logging.project
    path = Path(output_dir) / RUNS
    earlier = json.loads(path.read_text("utf-8")) if path.is_file() and not anew else {}
    for tracker, variable in RUN_ID.items():
        if tracker in earlier and tracker in logging.trackers:
            os.environ[variable] = earlier[tracker]
    if "wandb" in earlier:
        os.environ["WANDB_RESUME"] = "allow"
    if "wandb" in logging.trackers:
        _log_in_to_wandb()


def _log_in_to_wandb() -> None:
    """Before model and data are loaded; wandb reads the environment now, and never again.

    Where WANDB_MODE is offline or disabled, it wants no key.
    """
    import wandb

    try:
        wandb.login(verify=False)
    except wandb.Error as error:
        raise ConfigError(
            "logging.trackers: wandb: there is no key, or none that is valid; set WANDB_API_KEY"
            " with runtime.env or runtime.envFrom, or WANDB_MODE to offline"
        ) from error


class Tracked(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Once the trackers have begun: remembers their runs, and tells where their pages are."""

    def __init__(
        self, logging: LoggingConfig, output_dir: str, tell: Callable[[dict[str, str]], None]
    ) -> None:
        self._trackers = logging.trackers
        self._path = Path(output_dir) / RUNS
        self._tell = tell
        self._ids: dict[str, str] = {}

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        """The trackers' own callbacks come before this one; only the first process has runs."""
        if not state.is_world_process_zero:
            return
        runs = {name: (run, url) for name, run, url in _runs() if name in self._trackers}
        self._ids = {name: run for name, (run, _) in runs.items()}
        if runs:
            replace_file(self._path, json.dumps(self._ids))
        self._tell({name: url for name, (_, url) in runs.items() if url.startswith("http")})

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """What is logged meanwhile belongs to the run of the training, which MLflow has ended."""
        mlflow = sys.modules.get("mlflow")
        if mlflow is None or "mlflow" not in self._ids or mlflow.active_run():
            yield
            return
        with mlflow.start_run(run_id=self._ids["mlflow"]):
            yield


def _runs() -> Iterator[tuple[Tracker, str, str]]:
    """Every tracker's active run: its name, the run's id, and its page where it has one."""
    if (wandb := sys.modules.get("wandb")) and wandb.run:
        yield "wandb", wandb.run.id, wandb.run.url or ""
    if (mlflow := sys.modules.get("mlflow")) and (run := mlflow.active_run()):
        page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        server = _without_user(mlflow.get_tracking_uri())
        yield "mlflow", run.info.run_id, f"{server.rstrip('/')}/{page}"


def _without_user(url: str) -> str:
    """The address without a name and password: everybody may read where a page is."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
