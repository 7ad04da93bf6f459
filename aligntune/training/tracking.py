"""Pointing the experiment trackers at this run."""

import os
from pathlib import Path

from aligntune.core.config.training import LoggingConfig
from aligntune.training.machine import require


def point_trackers(logging: LoggingConfig, output_dir: str) -> None:
    """Tell the trackers, which listen to nothing but the environment, where to write.

    TensorBoard's files go to `<output_dir>/tensorboard`, so that a restarted run adds to its own.

    Raises:
        ConfigError: A tracker's package is not installed.
    """
    for tracker in logging.trackers:
        require(tracker, f"logging.trackers: {tracker}")
    if "tensorboard" in logging.trackers:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(output_dir) / "tensorboard")
    if logging.project is not None:
        os.environ["WANDB_PROJECT"] = logging.project
        os.environ["MLFLOW_EXPERIMENT_NAME"] = logging.project
