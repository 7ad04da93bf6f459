"""transformers' training loop, with what every run of ours does around a step."""

import math
import sys
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from aligntune.core.config.training import EvaluationConfig
from aligntune.core.errors import PreemptedError
from aligntune.data.sources import Rows
from aligntune.training._compat import LoadsOptimizerOnCPU, ShardsOnCPU
from aligntune.training.checkpoints import Checkpoints
from aligntune.training.context import world_size
from aligntune.training.metric_names import metrics_of
from aligntune.training.preemption import Preemption
from aligntune.training.progress import RunProgress, StepTotals
from aligntune.training.sharding import check_shared


class Surroundings(TypedDict):
    """What every loop is made with: what it adds to transformers' Trainer, and what that takes."""

    progress: RunProgress
    checkpoints: Checkpoints
    preemption: Preemption
    evaluation: EvaluationConfig
    model: Any
    args: Any
    train_dataset: Rows
    eval_dataset: Dataset | None
    processing_class: Any
    callbacks: list[TrainerCallback]


class RunLoop(LoadsOptimizerOnCPU, ShardsOnCPU):
    """To be put before a TRL trainer among the bases; the algorithm stays TRL's.

    At the end of each step all processes add up loss, tokens and requests to stop, in the one
    exchange that stopping together needs anyway. A checkpoint counts once its manifest is written.
    """

    def __init__(
        self,
        *,
        progress: RunProgress,
        checkpoints: Checkpoints,
        preemption: Preemption,
        evaluation: EvaluationConfig,
        **trainer: Any,
    ) -> None:
        self.progress = progress
        self.preempted = False
        self.stopped_early = False
        self._checkpoints = checkpoints
        self._preemption = preemption
        self._evaluation = evaluation
        self._recorded_step = 0
        self._resumed_from: Path | None = None
        self._skips = False
        """Whether the next batch lies behind rows of a stream that have been trained on."""
        super().__init__(**trainer)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Begin(self))
        if self.args.world_size != world_size():  # accelerate has silently trained with one
            raise RuntimeError(f"{self.args.world_size} of {world_size()} processes train together")
        self._sums = torch.zeros(4, device=self.args.device)

    def train(self, resume_from_checkpoint: str | None = None, **more: Any) -> Any:
        """Train to the end, from a checkpoint where one is given."""
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.preempted = False
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **more)

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Where the run stands: passes over the data, and batches of the one that goes on.

        Transformers takes a stream, of which it does not know the length, to be in its first pass.
        """
        passes, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        has_length = num_train_epochs < sys.maxsize
        if resume_from_checkpoint is None or has_length:
            return passes, batches
        saved = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        passes, steps = place_in_stream(saved.epoch, saved.max_steps)
        self._skips = True
        return passes, steps * self.args.gradient_accumulation_steps

    def begin(self) -> None:
        """The first step is next; how many there are, and how many are done, is known now."""
        check_shared(self._checkpoints.strategy, self.model_wrapped, self.args.world_size)
        self._recorded_step = self.state.global_step
        [self._checkpoints.unfinished] = broadcast_object_list([self._checkpoints.unfinished])
        if self._resumed_from is not None:
            self.load_more(self._resumed_from)
            if self.is_world_process_zero():
                left = self.state.max_steps - self.state.global_step
                self._checkpoints.tell_changes(self._resumed_from, steps_left=left)
            for line in self.state.log_history:
                if "test_runtime" in line:
                    continue
                logged = {name: value for name, value in line.items() if name != "step"}
                self.progress.logged(metrics_of(logged, "eval" if "eval_runtime" in line else ""))
        self.progress.begin(
            self._checkpoints.folder,
            self.state.global_step,
            self.state.epoch or 0.0,
            self.state.max_steps,
            self.state.best_metric,
        )

    def _run_epoch(self, **epoch: Any) -> None:
        """Where earlier attempts have done the last step, transformers would do one more."""
        self.stopped_early = self._patience_is_over()
        if self.stopped_early or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**epoch)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Trackers upload what they have before they let go, which may take long."""
        self.progress.end()
        return super()._finalize_training(*args, **kwargs)

    def training_step(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Forward and backward; keeps the sums on the device, so that nothing waits for them."""
        self.count(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._sums[0] += loss
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the next optimizer step; a resumed stream is first read up to there."""
        skips, self._skips = self._skips, False
        with self.progress.doing("loading") if skips else self.progress.taking("data_wait"):
            return super().get_batch_samples(*args, **kwargs)

    def count(self, inputs: Any) -> None:
        """Add what one forward pass trains on to the sums."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        positions = inputs.get("position_ids")
        end_to_end = mask is None and positions is not None  # packed, or free of padding
        self.add_to_sums(
            tokens=ids.numel() if mask is None else mask.sum(),
            samples=(positions == 0).sum() if end_to_end else ids.shape[0],
        )

    def add_to_sums(self, *, tokens: int | torch.Tensor, samples: int | torch.Tensor) -> None:
        """Count towards this step, on this process: tokens without padding, and sequences."""
        self._sums[1] += tokens
        self._sums[2] += samples

    @property
    def strayed(self) -> bool:
        """Whether the model is no longer one to keep, by the algorithm's own measure."""
        return False

    def save_more(self, folder: Path) -> None:
        """Write what this rank must remember besides what transformers saves, below `folder`."""

    def load_more(self, folder: Path) -> None:
        """Remember what `save_more` wrote."""

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Any,
        grad_norm: Any,
        *rest: Any,
        **more: Any,
    ) -> None:
        """Transformers comes here after each optimizer step, and once more after each epoch."""
        if self.state.global_step > self._recorded_step:
            self._recorded_step = self.state.global_step
            self._end_step(float(grad_norm or 0.0), float(more["learning_rate"] or 0.0))
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *rest, **more)

    def _end_step(self, grad_norm: float, learning_rate: float) -> None:
        self._sums[3] = float(self._preemption.requested)
        loss, tokens, samples, stop = self.accelerator.reduce(self._sums, "sum").tolist()
        self._sums.zero_()
        if self.args.fp16 and self.accelerator.optimizer_step_was_skipped:
            grad_norm = 0.0  # the loss scaler skips steps while it looks for its scale
        self.progress.stepped(
            self.state.global_step,
            self.state.epoch,
            StepTotals(
                loss / self.args.world_size, grad_norm, learning_rate, int(samples), int(tokens)
            ),
        )
        if stop and self.state.global_step < self.state.max_steps:
            self._preemption.answered()
            self._stop()

    def _stop(self) -> None:
        """Save, and do nothing more."""
        self.preempted = True
        self.control.should_save = True
        self.control.should_evaluate = False
        self.control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass on what the algorithm itself measures."""
        super().log(logs, start_time)
        if self.model.training and "train_runtime" not in logs:
            self.progress.logged(metrics_of(logs))

    def check_preemption(self) -> None:
        """To be called by all processes before each batch of an evaluation, of which the whole may
        take longer than a pod's grace period.

        Raises:
            PreemptedError: One of them was asked to stop.
        """
        asked = torch.tensor(float(self._preemption.requested), device=self.args.device)
        if self.accelerator.reduce(asked, "sum"):
            self._preemption.answered()
            raise PreemptedError(
                f"stopped on request in the evaluation at step {self.state.global_step}"
            )

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Measure a batch."""
        self.check_preemption()
        return super().prediction_step(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure between two steps; nothing where that is cut short."""
        try:
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
        except PreemptedError:
            self._stop()
            return {}
        return metrics

    def evaluate(
        self,
        *args: Any,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> dict[str, float]:
        """Measure, and say so. TRL's own `evaluate` would first prepare rows, which ours are.

        It is passed over, so a trainer that measures in its own way overrides `evaluation_loop`.
        What is measured as `test` is on other rows than the run's, and no number of the run.

        Raises:
            PreemptedError: A process was asked to stop meanwhile.
        """
        with self.progress.doing("evaluating"):
            metrics: dict[str, float] = Trainer.evaluate(
                self, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        measured = metrics_of(metrics, metric_key_prefix)
        if metric_key_prefix == "eval":
            self.progress.evaluated(
                measured,
                None if self.strayed else measured.get(self.args.metric_for_best_model),
                greater_is_better=self.args.greater_is_better,
            )
        elif metric_key_prefix == "train":
            self.progress.logged(measured)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save where the best model has to be kept, and stop where it does not get better."""
        if self.preempted or self.strayed:
            return False
        best = bool(super()._determine_best_metric(metrics=metrics, trial=trial))
        if best and self._evaluation.keep_best:
            self.control.should_save = True
        if self._patience_is_over():
            self.stopped_early = True
            self.control.should_save = True
            self.control.should_training_stop = True
        return best

    def _patience_is_over(self) -> bool:
        """Too many evaluations have come since the best; the history comes with checkpoints."""
        patience, best = self._evaluation.early_stopping_patience, self.state.best_global_step
        if patience is None or best is None:
            return False
        name = self.args.metric_for_best_model
        since = [line for line in self.state.log_history if name in line and line["step"] > best]
        return len(since) >= patience

    def load_best_model(self) -> None:
        """Put the weights of the best evaluation in place of the last."""
        if self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """The weights, where each process holds a part: all take part, the first gets them all.

        None where the model is whole everywhere.
        """
        if self._checkpoints.strategy in ("fsdp2", "zero3"):
            return self.accelerator.get_state_dict(self.model_wrapped) or {}
        return None

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002
        """Where transformers writes `checkpoint-N`."""
        return str(self._checkpoints.unfinished)

    def _point_at_best(self) -> None:
        """Say where the best checkpoint will be; transformers names where it is written."""
        step = self.state.best_global_step
        if step and (step == self.state.global_step or self._checkpoints.path(step).exists()):
            self.state.best_model_checkpoint = str(self._checkpoints.path(step))
            if self.args.should_save:
                folder = self._checkpoints.unfinished_path(self.state.global_step)
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def save_checkpoint(self) -> Path:
        """Write a complete checkpoint now; returns its folder."""
        self._save_checkpoint(self.model, trial=None)
        return self._checkpoints.path(self.state.global_step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint; once every process has written its part, it is put in its place."""
        step = self.state.global_step
        with self.progress.doing("checkpointing"):
            try:
                super()._save_checkpoint(model, trial)
                self._point_at_best()
                self.save_more(self._checkpoints.unfinished_path(step))
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    best = self.state.best_model_checkpoint
                    self._checkpoints.commit(
                        step,
                        best=Path(best) if best else None,
                        samples=self.progress.samples,
                        tokens=self.progress.tokens,
                        training_seconds=self.progress.training_seconds,
                    )
                self.accelerator.wait_for_everyone()
            except BaseException:
                self._checkpoints.discard()
                self._checkpoints.check_owner()  # an OSError, where the new owner cleaned up here
                raise
        self.progress.saved(self._checkpoints.path(step))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours comes with the saved model; TRL would write one into the output folder."""


def place_in_stream(epoch: float, max_steps: int) -> tuple[int, int]:
    """Whole passes over a stream before a checkpoint, and optimizer steps of the pass it is in.

    Args:
        epoch: What transformers counts: the passes, and the steps of the last as a part of all.
            A checkpoint comes after a step, so that part is never 0, and 1 where one pass was all.
        max_steps: All steps of the run that wrote it.
    """
    passes = max(math.ceil(epoch) - 1, 0)
    return passes, round((epoch - passes) * max_steps)


class _Begin(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._loop.begin()
