"""Pointing the experiment trackers at this run."""

import os
from pathlib import Path

from aligntune.core.config.training import LoggingConfig
from aligntune.training.model_loading import require


def point_trackers(logging: LoggingConfig, output_dir: str) -> None:
    """Tell the trackers, which listen to nothing but the environment, where to write.

    A restarted run writes where it wrote before. What the pod's environment says stays.

    Raises:
        ConfigError: A tracker's package is not installed.
    """
    for tracker in logging.trackers:
        require(tracker, f"logging.trackers: {tracker}")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(Path(output_dir) / "tensorboard"))
    if logging.project is not None:
        os.environ.setdefault("WANDB_PROJECT", logging.project)
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", logging.project)
