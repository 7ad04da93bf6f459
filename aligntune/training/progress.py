"""Following a run: state, log lines, the loss curve, and what status shows."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic.alias_generators import to_camel

from aligntune.api.names import CURVE, MEASURED
from aligntune.api.progress import (
    Activity,
    Checkpoint,
    Duration,
    Durations,
    Progress,
    Snapshot,
)
from aligntune.core.errors import LossDivergedError
from aligntune.core.training_state import TrainingState
from aligntune.training import checkpoints
from aligntune.training.metrics_log import MetricsLog, read

REPORT_SECONDS = 1.0
"""Least time between two reports while training. 1: the operator polls every few seconds."""
NOT_STEPS = ("loading", "evaluating", "checkpointing")
"""Activities between steps; generating belongs to one."""
Interlude = Literal["loading", "generating", "evaluating", "checkpointing", "saving"]
"""An activity that begins and ends within a run, and after which the one before goes on."""
DURATION_OF: dict[Interlude, str] = {
    "loading": "loading",
    "generating": "generation",
    "evaluating": "evaluation",
    "checkpointing": "checkpoint",
    "saving": "saving",
}
"""Interlude -> the field of `Durations` that its time goes into."""
PACE_STEPS = 50
"""Steps over which pace is averaged. 50: steady enough for an ETA, and follows a change."""

_log = logging.getLogger(__name__)


class StepTotals(NamedTuple):
    """What one optimizer step came to, over all processes."""

    loss: float
    """Mean loss in nats per token (or what the method's loss is)."""
    grad_norm: float
    """L2 norm of the gradient before clipping."""
    learning_rate: float
    samples: int
    """Sequences."""
    tokens: int
    """Tokens without padding."""


class RunProgress:
    """Keeps `TrainingState` up to date and tells everybody who wants to know.

    Every process has one, since the state is everybody's, and reports to its pod's launcher, which
    looks for hangs; only the first writes.
    """

    def __init__(
        self,
        state: TrainingState,
        report: Callable[[Snapshot], None],
        *,
        first_process: bool,
        log_every_steps: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = state
        self.metrics: dict[str, float] = {}
        """The newest value of each metric, by its snake_case name."""
        self.samples = 0
        """Sequences trained on, over all processes and attempts."""
        self.tokens = 0
        """Tokens trained on, without padding, over all processes and attempts."""
        self.training_seconds = 0.0
        """Time spent in the steps that were kept, over all attempts."""
        self.new_samples = 0
        """Those of this attempt."""
        self.new_tokens = 0
        self.durations = Durations()
        """What this attempt has spent its time on."""
        self._report = report
        self._first_process = first_process
        self._log_every_steps = log_every_steps
        self._clock = clock
        self._curve: MetricsLog | None = None
        self._measured: MetricsLog | None = None
        """Stays open when the last step is done: an evaluation may follow."""
        self._total_steps: int | None = None
        self._activity: Activity = "starting"
        self._reported = 0.0
        self._tracker_urls: dict[str, str] = {}
        self._pace: list[float] = []
        self._step_began = 0.0
        self._loss_sum = 0.0
        self._loss_count = 0

    @contextmanager
    def doing(self, activity: Interlude) -> Iterator[None]:
        """The run does something else for a while."""
        before, self._activity = self._activity, activity
        self._tell()
        try:
            with self.taking(DURATION_OF[activity]):
                yield
        finally:
            self._activity = before
            if activity in NOT_STEPS:
                self._step_began = self._clock()
            self._tell()  # what follows may hang

    @contextmanager
    def taking(self, what: str) -> Iterator[None]:
        """Adds the time of its `with` block to the field `what` of `durations`."""
        began = self._clock()
        try:
            yield
        finally:
            self._took(what, self._clock() - began)

    def _took(self, what: str, seconds: float) -> None:
        before: Duration = getattr(self.durations, what)
        after = Duration(count=before.count + 1, seconds=before.seconds + max(seconds, 0.0))
        self.durations = self.durations.model_copy(update={what: after})

    def resumed(self, path: Path) -> None:
        """This attempt goes on from a checkpoint of an earlier one."""
        manifest = checkpoints.read(path)
        self.samples, self.tokens = manifest.samples, manifest.tokens
        self.training_seconds = manifest.training_seconds
        self.state.saved(path, (path / checkpoints.MANIFEST).stat().st_mtime)
        _log.info("going on from %s", path)

    def begin(
        self, folder: Path, step: int, epoch: float, total_steps: int, best: float | None
    ) -> None:
        """The first step of this attempt is next.

        Args:
            folder: Where the loss curve goes, and where that of earlier attempts is.
            step: Steps that earlier attempts have done.
            epoch: Passes over the data that earlier attempts have done.
            total_steps: Steps of the whole run.
            best: The best evaluation of earlier attempts, by loss or reward.
        """
        earlier = [line["loss"] for line in read(folder / CURVE) if line["step"] <= step]
        self._loss_sum, self._loss_count = math.fsum(earlier), len(earlier)
        if self._first_process:
            for log in filter(None, (self._curve, self._measured)):
                log.close()
            self._curve = MetricsLog(folder / CURVE, from_step=step)
            self._measured = MetricsLog(folder / MEASURED, from_step=step)
        self.state.started(step, epoch, self._clock())
        self.state.best_metric = best
        self._total_steps = total_steps
        self._step_began = self._clock()
        self._pace = [self._step_began]
        self._activity = "training"
        self._tell()

    def end(self) -> None:
        """The last step of this attempt is done: nobody is to wait for another."""
        self._activity = "saving"
        self._tell()

    @property
    def mean_loss(self) -> float:
        """Mean loss over all steps, earlier attempts included."""
        return self._loss_sum / self._loss_count if self._loss_count else math.nan

    def stepped(self, step: int, epoch: float, totals: StepTotals) -> None:
        """An optimizer step is done.

        Raises:
            LossDivergedError: Its loss is no longer a finite number.
            OSError: The loss curve cannot be written.
        """
        if not math.isfinite(totals.loss) or not math.isfinite(totals.grad_norm):
            what = "loss" if not math.isfinite(totals.loss) else "gradient"
            raise LossDivergedError(
                f"step {step}: the {what} is no longer a finite number; lower train.learningRate"
                " (or train.maxGradNorm), or look for broken rows in the data"
            )
        self.state.stepped(step, epoch)
        self.samples += totals.samples
        self.tokens += totals.tokens
        self.new_samples += totals.samples
        self.new_tokens += totals.tokens
        self._loss_sum += totals.loss
        self._loss_count += 1
        now = self._clock()
        self._pace = [*self._pace[-PACE_STEPS:], now]
        self.training_seconds += now - self._step_began
        self._took("step", now - self._step_began)
        self._step_began = now
        line = {
            "loss": totals.loss,
            "grad_norm": totals.grad_norm,
            "learning_rate": totals.learning_rate,
        }
        self.metrics |= line | {"num_tokens": float(self.tokens)}
        if self._curve is not None:
            self._curve.append(step, _camel(line))
        if self._first_process and step % self._log_every_steps == 0:
            _log.info("%s", self._line(totals))
        if step == 1 or self._pace[-1] - self._reported >= REPORT_SECONDS:
            self._tell()

    def logged(self, metrics: Mapping[str, float]) -> None:
        """A trainer logged numbers of its own, averaged since it last did."""
        ours = {"loss", "grad_norm", "learning_rate"}
        theirs = {name: value for name, value in metrics.items() if name not in ours}
        self.metrics |= theirs
        if self._measured is not None and theirs:
            self._measured.append(self.state.step, _camel(theirs))

    def tracked(self, urls: dict[str, str]) -> None:
        """Experiment trackers show this run at `urls`, by the tracker's name."""
        self._tracker_urls = urls

    def evaluated(
        self, metrics: Mapping[str, float], judged_by: float | None, *, greater_is_better: bool
    ) -> None:
        """An evaluation during the run is done; `judged_by` decides which is the best."""
        self.state.evaluated(judged_by, self._clock(), greater_is_better=greater_is_better)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._first_process:
            _log.info("step %d: evaluated: %s", self.state.step, shown)
        self.logged(metrics)
        self._tell()

    def saved(self, path: Path) -> None:
        """A checkpoint is complete."""
        self.state.saved(path, self._clock())
        if self._first_process:
            _log.info("step %d: saved %s", self.state.step, path)
        self._tell()

    def snapshot(self) -> Snapshot:
        """Where the run stands."""
        state, total = self.state, self._total_steps
        seconds = self._seconds_per_step()
        elapsed = self._clock() - state.start_time if state.start_time is not None else 0.0
        return Snapshot(
            progress=Progress(
                step=state.step,
                total_steps=total,
                epoch=state.epoch,
                percent=100 * state.step // total if total else None,
                eta_seconds=round(seconds * (total - state.step)) if seconds and total else None,
                samples_per_second=self.new_samples / elapsed if elapsed > 0 else None,
                tokens_per_second=self.new_tokens / elapsed if elapsed > 0 else None,
                training_seconds=self.training_seconds,
                activity=self._activity,
                updated_at=datetime.fromtimestamp(self._clock(), tz=UTC),
            ),
            metrics=_camel(self.metrics),
            checkpoint=self.checkpoint(),
            tracker_urls=self._tracker_urls,
            durations=self.durations,
        )

    def checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint, as status shows it."""
        path, saved = self.state.checkpoint_path, self.state.last_save_time
        if path is None or saved is None:
            return None
        step = int(path.name.rpartition("-")[2])
        return Checkpoint(step=step, path=str(path), saved_at=datetime.fromtimestamp(saved, tz=UTC))

    def _tell(self) -> None:
        self._reported = self._clock()
        self._report(self.snapshot())

    def _seconds_per_step(self) -> float | None:
        steps = len(self._pace) - 1
        return (self._pace[-1] - self._pace[0]) / steps if steps > 0 else None

    def _line(self, totals: StepTotals) -> str:
        seconds = self._seconds_per_step() or 0.0
        left = (self._total_steps or 0) - self.state.step
        return (
            f"step {self.state.step}/{self._total_steps}: loss {totals.loss:.4f},"
            f" gradient norm {totals.grad_norm:.3g}, learning rate {totals.learning_rate:.3g},"
            f" {seconds:.2f} s a step, {round(seconds * left)} s to go"
        )


def _camel(metrics: Mapping[str, float]) -> dict[str, float]:
    return {to_camel(name): value for name, value in metrics.items()}
