"""A trainer around a `RunLoop`: what all of ours do alike, whatever they train."""

import logging
import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from accelerate.utils import broadcast_object_list
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel
from transformers import TrainerCallback, set_seed

from aligntune.api.names import MODEL
from aligntune.core.config.model import LoraConfig, ModelConfig
from aligntune.core.errors import RunError
from aligntune.core.files import UNFINISHED, ensure_writable, settle, sync
from aligntune.core.lifecycle import Lifecycle, RunsConfig
from aligntune.core.train_result import TrainResult
from aligntune.data.pipeline import Encoder, TrainingData, first_rows, load, load_one
from aligntune.hub import COMMIT
from aligntune.training import gguf
from aligntune.training.adapters import as_whole_model, fingerprint
from aligntune.training.arguments import shared_arguments
from aligntune.training.checkpoints import Checkpoints, installed
from aligntune.training.context import RunContext, rank, world_size
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.machine import (
    Compute,
    Machine,
    check_kernels,
    resolve_precision,
    this_machine,
)
from aligntune.training.metric_names import metrics_of
from aligntune.training.model_card import model_card
from aligntune.training.model_loading import (
    learned_positions,
    load_model,
    load_tokenizer,
    longest,
    lora_config,
    stop_at_end_of_turn,
    train_in_fp32,
)
from aligntune.training.progress import RunProgress
from aligntune.training.saving import check_mergeable, merge_adapters, push, save
from aligntune.training.tracking import Tracked, point_trackers

TRAINING_ROWS_MEASURED = 512
"""Training rows that `evaluate` measures where nothing is held out."""

_log = logging.getLogger(__name__)


class LoopTrainer(Lifecycle[RunsConfig]):
    """The lifecycle, given the four things in which methods differ.

    A trainer says which model is loaded (`load_model`), what rows become (`make_encoder`), what its
    library is told (`make_arguments`) and which loop trains (`make_loop`).
    """

    method: ClassVar[str]
    """What is done to the model, as its card says."""
    adapted_task: ClassVar[str] = "CAUSAL_LM"
    """PEFT's name for what the model with its adapters does."""

    computed_in: Compute
    """Settled by `setup_model`, as are the checkpoints."""
    checkpoints: Checkpoints

    def __init__(
        self,
        config: RunsConfig,
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
        self.progress = RunProgress(
            self.state,
            self.context.report,
            first_process=rank() == 0,
            log_every_steps=config.logging.every_steps,
        )
        self.model: Any = None
        self.tokenizer: Any = None
        self.arguments: Any = None
        self.max_length = 0
        self.data: TrainingData | None = None
        self.loop: RunLoop | None = None
        self._named = config
        """The config whose model is called as people call it."""
        self._base_revision = ""
        """The commit of the model on the hub; empty where it is not there."""
        self._resume_from: Path | None = None
        self._tracked = Tracked(config.logging, config.output_dir, self.progress.tracked)

    def resolve(self, config: RunsConfig) -> RunsConfig:
        """The config with what only the data can tell, where the model must know it."""
        return config

    def load_tokenizer(self, config: ModelConfig) -> Any:
        """The model's tokenizer, in the form in which this trainer feeds the model."""
        return load_tokenizer(config)

    def load_model(self, config: ModelConfig, computed_in: Compute) -> Any:
        """The model that is tuned, without adapters yet."""
        return load_model(config, computed_in)

    def load_base(self, config: ModelConfig) -> Any:
        """The model anew, in 16 bits, for adapters to be merged into."""
        return self.load_model(config, "bf16")

    def with_adapters(self, model: Any) -> Any:
        """The model as the loop is given it; here without adapters, which the loop adds."""
        return model

    def shared_arguments(self, machine: Machine) -> dict[str, Any]:
        """What the library is told, whatever is trained."""
        return shared_arguments(
            self.config,
            machine=machine,
            processes=world_size(),
            computed_in=self.computed_in,
            run_name=self.context.name,
        )

    @abstractmethod
    def make_encoder(self) -> Encoder[Any]:
        """What turns rows into what the loop is fed; model and tokenizer are loaded."""

    @abstractmethod
    def make_arguments(self, shared: dict[str, Any]) -> Any:
        """The library's arguments: those that all methods share, and the method's own."""

    @abstractmethod
    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """The loop that trains."""

    def setup(self) -> None:
        """Everything that comes before the first step, the loop and what it prepares included."""
        super().setup()
        self.ensure_loop()

    def setup_model(self) -> None:
        """Load model and tokenizer, and settle what the config leaves open."""
        config = self.config
        machine = this_machine()
        self.computed_in = resolve_precision(config.train.precision, machine)
        ensure_writable(Path(config.output_dir))
        anew = config.checkpoint.resume == "never"
        point_trackers(config.logging, config.output_dir, anew=anew)
        check_kernels(config, machine)
        if config.model.gguf:
            gguf.check_tools()
        with self.progress.doing("loading"):
            named = self.resolve(config)
            model = as_whole_model(named.model, trust_remote_code=named.model.trust_remote_code)
            config = cast("RunsConfig", named.model_copy(update={"model": model}))
            self.config, self._named = config, named
            self.tokenizer = self.load_tokenizer(model)
            set_seed(config.train.seed)  # heads begin with random weights
            self.model = self.load_model(model, self.computed_in)
            stop_at_end_of_turn(self.model, self.tokenizer)
            if self._saves_whole or model.gguf:
                check_mergeable(self.model)
            if model.gguf and rank() == 0:
                gguf.check_convertible(self.model.config, self.tokenizer)
        self.max_length = longest(model, self.model.config, learned_positions(self.model))
        self._base_revision = getattr(self.model.config, "_commit_hash", None) or (
            model.revision if model is not named.model and COMMIT.fullmatch(model.revision) else ""
        )
        self.arguments = self.make_arguments(self.shared_arguments(machine))
        self.checkpoints = Checkpoints(named, self.arguments.world_size, self.context.check_owner)
        folder = Path(named.model.name).expanduser()
        self.checkpoints.inputs["model"] = self._base_revision or (
            fingerprint(folder) if folder.is_dir() else ""
        )
        _log.info("config: %s", config.model_dump_json(exclude_none=True))
        _log.info(
            "resolved: learning rate %g, longest sequence %d tokens, computed in %s,"
            " weights kept in %s, gradient checkpointing %s, %d processes",
            config.learning_rate,
            self.max_length,
            self.computed_in,
            self.model.dtype,
            "on" if config.train.recomputes(gpu=machine.gpu) else "off",
            self.arguments.world_size,
        )

    def setup_data(self) -> None:
        """Read, recognise, tokenise and mix the data; log a sample as the model will see it."""
        self.ensure_model()
        with self.progress.doing("loading"):
            self.data = load(self.config, self.make_encoder())
        self.checkpoints.inputs["datasets"] = self.data.fingerprint

    def train(self) -> TrainResult:
        """Train to the end, from the newest complete checkpoint where there is one."""
        loop = self.ensure_loop()
        resumed = self._resume_from or self.checkpoints.to_resume()
        self._resume_from = None  # later it is the newest again
        loop.accelerator.wait_for_everyone()
        if loop.is_world_process_zero():
            self.checkpoints.clean(resumed)
        if resumed is not None:
            self.progress.resumed(resumed)
        began = time.monotonic()
        with self.context.preemption.listening():
            loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
        seconds = time.monotonic() - began
        if self.config.evaluation.keep_best and not loop.preempted:
            loop.load_best_model()
        return TrainResult(
            step=self.state.step,
            total_steps=loop.state.max_steps,
            epoch=self.state.epoch,
            train_loss=self.progress.mean_loss,
            metrics=dict(self.progress.metrics),
            runtime_seconds=seconds,
            samples=self.progress.samples,
            tokens=self.progress.tokens,
            samples_per_second=self.progress.new_samples / seconds,
            tokens_per_second=self.progress.new_tokens / seconds,
            best_metric=self.state.best_metric,
            checkpoint_path=self.state.checkpoint_path,
            stopped_early=loop.stopped_early,
            preempted=loop.preempted,
        )

    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure on the held-out rows, on `dataset`, or else on some of the training rows.

        Raises:
            PreemptedError: A process was asked to stop meanwhile.
        """
        loop = self.ensure_loop()
        prefix = "eval"
        rows: Any = loop.eval_dataset
        if dataset is not None:
            prefix = "test"
            rows = load_one(dataset, self.config, self.make_encoder())
        elif rows is None:
            _log.warning(
                "no rows are held out (evaluation.splitRatio, evaluation.datasets): up to %d"
                " training rows are measured",
                TRAINING_ROWS_MEASURED,
            )
            prefix = "train"
            rows = first_rows(loop.train_dataset, TRAINING_ROWS_MEASURED)
        with self._tracked.going_on():
            measured = metrics_of(loop.evaluate(rows, metric_key_prefix=prefix), prefix)
        if dataset is None:
            return measured
        return {f"eval_{name.removeprefix('test_')}": value for name, value in measured.items()}

    def save_model(self, path: str | Path | None = None, *, merge: bool = False) -> Path:
        """Write a folder that plain transformers or PEFT loads; default `<output_dir>/model`."""
        self.ensure_model()
        folder = Path(path) if path is not None else Path(self.config.output_dir) / MODEL
        with self.progress.doing("saving"):
            weights = self.loop.whole_weights() if self.loop else None
            whole_weights = not isinstance(self.model, PeftModel) or merge or self._saves_whole
            first = self.arguments.process_index == 0
            if first:
                self.context.check_owner()
                self._save(folder, weights, whole_weights=whole_weights)
            if self.loop is not None:
                self.loop.accelerator.wait_for_everyone()
            # The others need not wait: collectives have a timeout, and this may take longer.
            if first and self.config.model.gguf:
                self._add_gguf(folder, weights, whole_weights=whole_weights)
        return folder

    def _save(self, folder: Path, weights: dict[str, Any] | None, *, whole_weights: bool) -> Path:
        model = self.model
        if whole_weights and isinstance(model, PeftModel):
            base = self.config.model.model_copy(update={"quantization": None})
            model = merge_adapters(model, weights, self.load_base(base), folder.parent)
            weights = None
        card = self._card(whole_weights=whole_weights)
        return save(model, weights, self.tokenizer, card, folder, check=self.context.check_owner)

    def _add_gguf(
        self, folder: Path, weights: dict[str, Any] | None, *, whole_weights: bool
    ) -> None:
        """Put GGUF files of the model into its folder, where it is safe whatever becomes of them.

        Args:
            folder: The saved model, with `whole_weights` or only the adapters.
            weights: As for `save`.
            whole_weights: Whether nothing is left to be merged.
        """
        name = self.context.name or folder.name
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=UNFINISHED) as scratch:
            source = folder
            if not whole_weights:
                source = self._save(Path(scratch) / MODEL, weights, whole_weights=True)
            try:
                converted = gguf.convert(source, Path(scratch), name)
                if not whole_weights:
                    shutil.rmtree(source)  # as large as what it was converted to
                files = gguf.quantise(converted, self.config.model.gguf)
            except RunError as error:
                raise type(error)(f"{error}; the model itself is in {folder}") from error
            settle(Path(scratch))
            self.context.check_owner()
            for file in files:
                file.rename(folder / file.name)
            sync(folder)

    def save_checkpoint(self) -> Path:
        """Save where the run stands now; returns the checkpoint's folder."""
        loop = self.ensure_loop()
        if loop.optimizer is None:
            raise RunError("there is nothing to save before the first step: call train first")
        return loop.save_checkpoint()

    def load_checkpoint(self, path: str | Path) -> None:
        """Let `train` go on from this checkpoint."""
        self.ensure_model()
        self.checkpoints.check(Path(path))
        self._resume_from = Path(path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Save the model and upload it, from the first process alone; returns its URL."""
        model, url = self.save_model(), ""
        if self.arguments.process_index == 0:
            url = push(model, repo_id, private=private, token=token, commit_message=commit_message)
        shared: list[str] = broadcast_object_list([url])
        return shared[0]

    def adapters(self) -> PeftLoraConfig | None:
        """The adapters that the loop adds, in PEFT's words; None where all weights are trained."""
        return self.lora(self.adapted_task)

    def lora(self, task: str) -> PeftLoraConfig | None:
        """The config's adapters for `task`, PEFT's name for what a model does."""
        model = self.config.model
        if model.tuning == "full":
            return None
        return lora_config(model.lora or LoraConfig(), task, self._base_revision or None)

    @property
    def _saves_whole(self) -> bool:
        """Whether adapters are merged unasked: their base is in no other place, or they are to."""
        model = self.config.model
        return model is not self._named.model or bool(model.lora and model.lora.merge_on_save)

    def ensure_model(self) -> None:
        """Have model and tokenizer."""
        if self.model is None:
            self.setup_model()

    def ensure_loop(self) -> RunLoop:
        """Have everything, and the loop made of it."""
        if self.loop is not None:
            return self.loop
        self.ensure_model()
        if self.data is None:
            self.setup_data()
        assert self.data is not None  # noqa: S101 - what setup_data is for
        set_seed(self.config.train.seed)  # adapters begin with random weights
        self.model = self.with_adapters(self.model)
        self.loop = self.make_loop(
            Surroundings(
                progress=self.progress,
                checkpoints=self.checkpoints,
                preemption=self.context.preemption,
                evaluation=self.config.evaluation,
                model=self.model,
                args=self.arguments,
                train_dataset=self.data.train,
                eval_dataset=self.data.evaluation,
                processing_class=self.tokenizer,
                callbacks=[self._tracked, *self.callbacks],
            )
        )
        train_in_fp32(self.loop.model)
        self.model = self.loop.model
        return self.loop

    def _card(self, *, whole_weights: bool) -> str:
        return model_card(
            self._named,
            whole=whole_weights,
            title=self.context.name,
            lineage=self.context.lineage,
            method=self.method,
            base_revision=self._base_revision,
            data=[count._asdict() for count in (self.data.sources if self.data else [])],
            commits=self.data.commits if self.data else {},
            metrics=self.progress.metrics,
            versions=installed(),
            steps=self.state.step,
        )
