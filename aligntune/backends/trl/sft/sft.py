"""Supervised fine-tuning with TRL: full weights, LoRA and QLoRA."""

import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trl
from transformers import PreTrainedModel, TrainerCallback, set_seed

from aligntune.core.config.model import LoraConfig
from aligntune.core.errors import RunError
from aligntune.core.sft.config import SFTConfig
from aligntune.core.sft.trainer_base import Question, SFTTrainerBase
from aligntune.core.train_result import TrainResult
from aligntune.data.rendering import PLAIN_CHAT_TEMPLATE, Renderer
from aligntune.data.supervised import SupervisedData, load, load_one, some
from aligntune.training.checkpoints import Checkpoints, installed
from aligntune.training.context import RunContext, rank, world_size
from aligntune.training.files import claim
from aligntune.training.generation import answer
from aligntune.training.loop import RunLoop
from aligntune.training.machine import (
    Compute,
    Machine,
    check_kernels,
    compute,
    this_machine,
)
from aligntune.training.model_card import model_card
from aligntune.training.model_loading import (
    load_model,
    load_tokenizer,
    longest,
    lora_config,
)
from aligntune.training.progress import RunProgress
from aligntune.training.saving import merged, push, save
from aligntune.training.tracking import point_trackers

TRAINING_ROWS_MEASURED = 512
"""Training rows that `evaluate` measures where nothing is held out."""

_log = logging.getLogger(__name__)


def trl_arguments(
    config: SFTConfig,
    *,
    machine: Machine,
    processes: int,
    computed_in: Compute,
    max_length: int,
    run_name: str,
) -> trl.SFTConfig:
    """Every argument that TRL is given; what is not here has transformers' default."""
    train, evaluation = config.train, config.evaluation
    measured = evaluation.every_steps is not None
    checkpointing = train.gradient_checkpointing
    targets = (config.model.lora or LoraConfig()).target_modules
    return trl.SFTConfig(
        output_dir=config.output_dir,
        seed=train.seed,
        # how long
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.per_device_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        # how
        learning_rate=config.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=train.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        # in what
        use_cpu=not machine.gpu,
        bf16=computed_in == "bf16",
        fp16=computed_in == "fp16",
        gradient_checkpointing=machine.gpu if checkpointing is None else checkpointing,
        torch_compile=train.compile,
        use_liger_kernel=train.liger_kernel,
        ddp_backend="gloo" if processes > 1 and not machine.gpu else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=machine.gpu,
        # on which tokens: rows come tokenised, cut and labelled, so TRL has nothing to prepare
        max_length=max_length if train.packing else None,
        packing=train.packing,
        padding_free=train.padding_free,
        completion_only_loss=False,
        loss_type="nll" if train.liger_kernel or "lm_head" in targets else "chunked_nll",
        # measuring
        eval_strategy="steps" if measured else "no",
        eval_steps=evaluation.every_steps,
        per_device_eval_batch_size=evaluation.per_device_batch_size or train.per_device_batch_size,
        metric_for_best_model="eval_loss" if measured else None,
        greater_is_better=False if measured else None,
        # keeping
        save_strategy="steps",
        save_steps=config.checkpoint.every_steps,
        save_total_limit=None,  # ours are removed once the next one is complete
        # telling
        logging_steps=config.logging.every_steps,
        logging_nan_inf_filter=False,
        report_to=list(config.logging.trackers) or "none",
        run_name=config.logging.run_name or run_name,
        disable_tqdm=True,
    )


class _Loop(RunLoop, trl.SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's SFT in our loop."""


class TRLSFTTrainer(SFTTrainerBase):
    """Supervised fine-tuning with `trl.SFTTrainer`."""

    def __init__(
        self,
        config: SFTConfig,
        context: RunContext | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepare a run; nothing is loaded yet.

        Args:
            config: What to train.
            context: Whom to tell and who may stop it; default: nobody.
            callbacks: Further transformers callbacks.
        """
        super().__init__(config)
        self.context = context or RunContext()
        self.callbacks = list(callbacks)
        self._progress = RunProgress(
            self.state,
            self.context.report,
            first_process=rank() == 0,
            log_every_steps=config.logging.every_steps,
        )
        self._model: PreTrainedModel | None = None
        self._data: SupervisedData | None = None
        self._loop: _Loop | None = None
        self._resume_from: Path | None = None

    def setup_model(self) -> None:
        """Load model and tokenizer, and settle what the config leaves open."""
        config = self.config
        machine = this_machine()
        computed_in = compute(config.train.precision, machine)
        claim(Path(config.output_dir))
        point_trackers(config.logging, config.output_dir)
        check_kernels(config, machine)
        with self._progress.doing("loading"):
            self._tokenizer = load_tokenizer(config.model, PLAIN_CHAT_TEMPLATE)
            self._model = load_model(config.model, computed_in)
        max_length = longest(config.model, self._model)
        self._arguments = trl_arguments(
            config,
            machine=machine,
            processes=world_size(),
            computed_in=computed_in,
            max_length=max_length,
            run_name=self.context.name,
        )
        self._renderer = Renderer(
            self._tokenizer, max_length=max_length, loss_on=config.train.loss_on
        )
        self._cache_key = (
            self._tokenizer.backend_tokenizer.to_str(),
            self._tokenizer.chat_template,
            max_length,
            config.train.loss_on,
        )
        self._base_revision: str = getattr(self._model.config, "_commit_hash", None) or ""
        self._checkpoints = Checkpoints(config, self._arguments.world_size)
        _log.info("config: %s", config.model_dump_json(exclude_none=True))
        _log.info(
            "resolved: learning rate %g, longest sequence %d tokens, computed in %s,"
            " weights kept in %s, gradient checkpointing %s, %d processes",
            config.learning_rate,
            max_length,
            computed_in,
            self._model.dtype,
            "on" if self._arguments.gradient_checkpointing else "off",
            self._arguments.world_size,
        )

    def setup_data(self) -> None:
        """Read, recognise, tokenise and mix the data; log a sample with its loss mask."""
        self._need_model()
        with self._progress.doing("loading"):
            self._data = load(
                self.config,
                self._renderer,
                self._cache_key,
                partial(self._arguments.main_process_first, desc="tokenizing"),
            )

    def train(self) -> TrainResult:
        """Train to the end, from the newest complete checkpoint where there is one."""
        loop = self._need_loop()
        resumed = self._resume_from or self._checkpoints.to_resume()
        loop.accelerator.wait_for_everyone()
        if loop.is_world_process_zero():
            self._checkpoints.clean(resumed)
        if resumed is not None:
            self._progress.resumed(resumed)
        began = time.monotonic()
        with self.context.preemption.listening():
            loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
        seconds = time.monotonic() - began
        self._progress.end()
        if self.config.evaluation.keep_best and not loop.preempted:
            loop.load_best_model()
        return TrainResult(
            step=self.state.step,
            total_steps=loop.state.max_steps,
            epoch=self.state.epoch,
            train_loss=self._progress.mean_loss,
            metrics=dict(self._progress.metrics),
            runtime_seconds=seconds,
            samples_per_second=self._progress.samples / seconds,
            tokens_per_second=self._progress.tokens / seconds,
            best_metric=self.state.best_metric,
            checkpoint_path=self.state.checkpoint_path,
            stopped_early=loop.stopped_early,
            preempted=loop.preempted,
        )

    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure on the held-out rows, on `dataset`, or else on some of the training rows."""
        loop = self._need_loop()
        prefix = "eval"
        rows: Any = loop.eval_dataset
        if dataset is not None:
            rows = load_one(dataset, self.config, self._renderer, self._cache_key)
        elif rows is None:
            _log.warning(
                "no rows are held out (evaluation.splitRatio, evaluation.datasets): up to %d"
                " training rows are measured",
                TRAINING_ROWS_MEASURED,
            )
            prefix = "train"
            rows = some(loop.train_dataset, TRAINING_ROWS_MEASURED)
        measured = loop.evaluate(rows, metric_key_prefix=prefix)
        metrics = {
            f"{prefix}_{name}": measured[key]
            for name in ("loss", "mean_token_accuracy", "entropy")
            for key in (f"{prefix}_{name}", f"eval_{name}")
            if key in measured
        }
        metrics[f"{prefix}_perplexity"] = math.exp(min(metrics[f"{prefix}_loss"], 700))
        self._progress.logged(metrics)
        return metrics

    def save_model(self, path: str | Path | None = None, *, merge: bool = False) -> Path:
        """Write a folder that plain transformers or PEFT loads; default `<output_dir>/model`."""
        self._need_model()
        folder = Path(path) if path is not None else Path(self.config.output_dir) / "model"
        if self._arguments.process_index == 0:
            with self._progress.doing("saving"):
                model: Any = self._model
                if merge and self.config.model.tuning == "lora":
                    model = merged(model, self.config.model, folder.parent)
                save(model, self._tokenizer, self._card(), folder)
        if self._loop is not None:
            self._loop.accelerator.wait_for_everyone()
        return folder

    def predict(
        self,
        questions: Question | Sequence[Question],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> str | list[str]:
        """Answer one question or a list of them, in the form that training uses."""
        self._need_model()
        sampling: dict[str, float] = (
            {"temperature": temperature, "top_p": top_p} if do_sample else {}
        )
        sampling |= {"max_new_tokens": max_new_tokens, "do_sample": do_sample}
        return answer(self._model, self._tokenizer, questions, **sampling)

    def save_checkpoint(self) -> Path:
        """Save where the run stands now; returns the checkpoint's folder."""
        loop = self._need_loop()
        if loop.optimizer is None:
            raise RunError("there is nothing to save before the first step: call train first")
        return loop.save_checkpoint()

    def load_checkpoint(self, path: str | Path) -> None:
        """Let `train` go on from this checkpoint."""
        self._need_model()
        self._checkpoints.check(Path(path))
        self._resume_from = Path(path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Save the model and upload it; returns its URL."""
        model = self.save_model()
        return push(model, repo_id, private=private, token=token, commit_message=commit_message)

    def _need_model(self) -> None:
        if self._model is None:
            self.setup_model()

    def _need_loop(self) -> _Loop:
        if self._loop is not None:
            return self._loop
        self._need_model()
        if self._data is None:
            self.setup_data()
        assert self._data is not None  # noqa: S101 - what setup_data is for
        config = self.config
        adapters = lora_config(config.model.lora or LoraConfig())
        set_seed(config.train.seed)  # adapters begin with random weights
        self._loop = _Loop(
            progress=self._progress,
            checkpoints=self._checkpoints,
            preemption=self.context.preemption,
            evaluation=config.evaluation,
            model=self._model,
            args=self._arguments,
            train_dataset=self._data.train,
            eval_dataset=self._data.evaluation,
            processing_class=self._tokenizer,
            peft_config=adapters if config.model.tuning == "lora" else None,
            callbacks=self.callbacks,
        )
        self._model = self._loop.model
        return self._loop

    def _card(self) -> str:
        return model_card(
            self.config,
            title=self.context.name,
            method="SFT",
            base_revision=self._base_revision,
            data=[count._asdict() for count in (self._data.sources if self._data else [])],
            metrics=self._progress.metrics,
            versions=installed(),
            steps=self.state.step,
        )
