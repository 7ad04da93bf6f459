"""One rank of a run: what the launcher starts, and what `aligntune train CONFIG` is.

python -m aligntune.pod.rank CONFIG
"""

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from aligntune.api.causes import Cause
from aligntune.api.env import DEBUG
from aligntune.api.exit_codes import EXIT_CODE, ExitCode
from aligntune.api.manifest import read_run_config
from aligntune.api.progress import LONGEST_TEXT, Outcome, Progress, Snapshot
from aligntune.api.run import HubPush, RunConfig
from aligntune.core.backend_factory import check_supported, trainer_for
from aligntune.core.errors import ConfigError, PreemptedError
from aligntune.core.files import ensure_writable
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.core.sft.trainer_base import SFTTrainerBase
from aligntune.pod.failure import classify
from aligntune.pod.imports import quick_imports, unused_packages
from aligntune.pod.publish import publish, republish, unpublished
from aligntune.pod.read_ahead import read_ahead, stored_weights
from aligntune.pod.reporter import Reporter
from aligntune.training.context import RunContext, do_nothing, local_rank, rank, world_size
from aligntune.training.ownership import Ownership

Result = Literal["Succeeded", "Failed", "Preempted"]
FindTrainer = Callable[[str, str], Callable[..., SFTTrainerBase | TrainerBase]]
"""Given backend and task, the trainer class."""

_log = logging.getLogger("aligntune")


def train(config_path: str | Path, find_trainer: FindTrainer = trainer_for) -> int:
    """Train what the file describes, report how it ended, and return the exit code."""
    _set_up_process()
    progress = ProgressReport(Reporter.from_env(os.environ))
    try:
        outcome = _run(Path(config_path), progress, find_trainer)
    # the process edge: every end gets a cause, also where a user's module calls sys.exit
    except (Exception, SystemExit) as error:  # noqa: BLE001
        failure = classify(error)
        shown = not failure.explained or bool(os.environ.get(DEBUG))
        _log.error("%s: %s", failure.cause, failure.message, exc_info=shown)
        outcome = progress.outcome("Failed", failure.cause, failure.message)
    progress.reporter.outcome(outcome)
    return outcome.exit_code


def _run(config_path: Path, progress: "ProgressReport", find_trainer: FindTrainer) -> Outcome:
    run = read_run_config(config_path)
    check_supported(run.backend, run.method)
    _check_world_size(run)
    if run.push and rank() == 0:
        _check_push(run.push)
    progress.root = run.storage_root
    if before := unpublished(run):
        progress.done_before(before)
        return republish(run, before)
    # only the first process writes what others rely on
    check_owner = _take_folder(run) if rank() == 0 else do_nothing
    context = RunContext(
        run.job.name, progress.report, check_owner=check_owner, lineage=run.lineage or {}
    )
    with quick_imports(unused_packages(run)), read_ahead(_weights_to_read(run)):
        make_trainer = find_trainer(run.backend, run.task)
    trainer = make_trainer(run.method, context)
    trainer.setup()  # SIGTERM still ends the process at once: there is nothing to save
    with context.preemption.listening():
        result = trainer.train()
        if result.preempted:
            message = f"stopped on request; step {result.step} is in {result.checkpoint_path}"
            return progress.outcome("Preempted", Cause.PREEMPTED, message)
        if run.method.evaluation.split_ratio or run.method.evaluation.datasets:
            try:
                trainer.evaluate()
            except PreemptedError as stopped:
                return progress.outcome("Preempted", Cause.PREEMPTED, str(stopped))
        progress.model = trainer.save_model()
        url = publish(progress.model, run.push) if run.push and rank() == 0 else None
        return progress.outcome("Succeeded", url=url)


def _weights_to_read(run: RunConfig) -> list[Path]:
    """What this process reads for all on its machine."""
    return stored_weights(run.method.model) if local_rank() == 0 else []


def _take_folder(run: RunConfig) -> Callable[[], None]:
    """Makes the output folder this attempt's; returns what sees that it still is."""
    folder = Path(run.method.output_dir)
    ensure_writable(folder)
    return Ownership.take(folder, run.job.uid, run.attempt).check


def _check_push(push: HubPush) -> None:
    """Sees that the token in HF_TOKEN may write there, before hours of training."""
    from aligntune.training.saving import check_push

    check_push(push.repo_id)


class ProgressReport:
    """Passes reports on and remembers the last, since it is part of the outcome."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.root = ""
        self.model: Path | None = None
        """The trained model, once it is saved."""
        self._last = Snapshot()

    def report(self, snapshot: Snapshot) -> None:
        """Where the run stands; status wants paths below the storage's root."""
        if snapshot.checkpoint is not None:
            path = self._below_root(Path(snapshot.checkpoint.path))
            checkpoint = snapshot.checkpoint.model_copy(update={"path": path})
            snapshot = snapshot.model_copy(update={"checkpoint": checkpoint})
        self._last = snapshot
        self.reporter.snapshot(snapshot)

    def done_before(self, outcome: Outcome) -> None:
        """An earlier attempt has trained and saved all there is."""
        self.model = Path(self.root) / str(outcome.model_path)
        done = Progress(step=outcome.step, total_steps=outcome.total_steps, activity="saving")
        self._last = Snapshot(progress=done, metrics=outcome.metrics, checkpoint=outcome.checkpoint)

    def outcome(
        self,
        result: Result,
        reason: Cause | None = None,
        message: str = "",
        url: str | None = None,
    ) -> Outcome:
        """How this rank ended, with where it stood."""
        return Outcome(
            result=result,
            reason=reason,
            message=message[:LONGEST_TEXT],
            exit_code=EXIT_CODE[reason] if reason else ExitCode.DONE,
            step=self._last.progress.step,
            total_steps=self._last.progress.total_steps,
            metrics=self._last.metrics,
            checkpoint=self._last.checkpoint,
            model_path=self._below_root(self.model) if self.model else None,
            model_url=url,
        )

    def _below_root(self, path: Path) -> str:
        root = Path(self.root) if self.root else None
        return str(path.relative_to(root) if root and path.is_relative_to(root) else path)


def _check_world_size(run: RunConfig) -> None:
    asked, there = run.nodes * run.processes_per_node, world_size()
    if asked != there:
        raise ConfigError(
            f"processesPerNode: {asked} processes are asked for and {there} started; start them"
            " with aligntune launch"
        )


def _set_up_process() -> None:
    """Logs to standard error, stacks on SIGUSR1, and libraries that neither draw nor phone."""
    first = rank() == 0
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_TELEMETRY",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


if __name__ == "__main__":
    sys.exit(train(sys.argv[1]))
