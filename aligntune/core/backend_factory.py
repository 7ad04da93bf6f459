"""Which trainer does what, and building one from a few keyword arguments."""

import difflib
import importlib
import importlib.util
import logging
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from aligntune.core.config.errors import mistakes
from aligntune.core.errors import ConfigError, UnsupportedError
from aligntune.core.rl.config import RLSpec
from aligntune.core.sft.config import SFTConfig, SFTSpec, TaskType
from aligntune.core.sft.trainer_base import SFTTrainerBase

TRAINERS: dict[tuple[str, str], str] = {
    ("trl", "sft"): "aligntune.backends.trl.sft.sft:TRLSFTTrainer",
}
"""The trainers of this version: (backend, task) -> module:class."""

BACKENDS = ("unsloth", "trl")
"""In the order in which `auto` tries them."""

SFT_OPTIONS: dict[str, str] = {
    "task": "task",
    "output_dir": "output_dir",
    "revision": "model.revision",
    "max_length": "model.max_length",
    "tuning": "model.tuning",
    "lora_r": "model.lora.r",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "target_modules": "model.lora.target_modules",
    "quantization_bits": "model.quantization.bits",
    "attention": "model.attention",
    "chat_template": "model.chat_template",
    "trust_remote_code": "model.trust_remote_code",
    "split": "datasets.0.split",
    "dataset_config": "datasets.0.config",
    "max_samples": "datasets.0.max_samples",
    "columns": "datasets.0.columns",
    "streaming": "datasets.0.streaming",
    "num_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "batch_size": "train.per_device_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "learning_rate": "train.learning_rate",
    "lr_scheduler": "train.lr_scheduler",
    "warmup_ratio": "train.warmup_ratio",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "optimizer": "train.optimizer",
    "precision": "train.precision",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "compile": "train.compile",
    "seed": "train.seed",
    "loss_on": "train.loss_on",
    "packing": "train.packing",
    "padding_free": "train.padding_free",
    "liger_kernel": "train.liger_kernel",
    "eval_split_ratio": "evaluation.split_ratio",
    "eval_steps": "evaluation.every_steps",
    "early_stopping_patience": "evaluation.early_stopping_patience",
    "keep_best": "evaluation.keep_best",
    "save_steps": "checkpoint.every_steps",
    "keep_checkpoints": "checkpoint.keep",
    "resume": "checkpoint.resume",
    "logging_steps": "logging.every_steps",
    "trackers": "logging.trackers",
    "run_name": "logging.run_name",
}
"""Keyword arguments of `create_sft_trainer`, each for one field of `SFTConfig`."""

_log = logging.getLogger(__name__)


class BackendStatus(NamedTuple):
    """What a backend is good for here."""

    installed: bool
    """Its package can be imported."""
    version: str
    """The package's version; empty where it is not installed."""
    tasks: tuple[str, ...]
    """What this version of aligntune can train with it."""


def get_backend_status() -> dict[str, BackendStatus]:
    """Every backend, installed or not. Nothing heavy is imported to find out."""
    return {name: _status(name) for name in BACKENDS}


def list_backends() -> list[str]:
    """The backends that are installed."""
    return [name for name, status in get_backend_status().items() if status.installed]


def check_supported(backend: str, config: SFTSpec | RLSpec) -> None:
    """Refuse what this version has no trainer for; nothing is imported to find out.

    Raises:
        UnsupportedError: With the field's place in a manifest, and what would work.
    """
    task = task_of(config)
    if (backend, task) not in TRAINERS:
        others = sorted(name for name, other in TRAINERS if other == task)
        remedy = f"use backend {' or '.join(others)}" if others else "no backend has one yet"
        raise UnsupportedError(f"{backend} has no trainer for {task} here; {remedy}", "backend")
    section = "rl" if isinstance(config, RLSpec) else "sft"
    if config.distributed.strategy != "ddp":
        raise UnsupportedError(
            f"{config.distributed.strategy} is not supported by this version; use ddp",
            *(section, "distributed", "strategy"),
        )
    if isinstance(config, SFTSpec) and config.model.attention != "flash_attention_2":
        for field in ("packing", "padding_free"):
            if getattr(config.train, field):
                raise UnsupportedError(
                    "needs model.attention: flash_attention_2, or rows would see each other",
                    *(section, "train", _camel(field)),
                )


def trainer_for(backend: str, task: str) -> Callable[..., SFTTrainerBase]:
    """The trainer class, to be called with its config. Its module, and torch, is imported now.

    Raises:
        UnsupportedError: There is none, or the backend's package is not installed.
    """
    place = TRAINERS.get((backend, task))
    if place is None:
        raise UnsupportedError(f"backend: {backend} has no trainer for {task} here")
    if not _status(backend).installed:
        raise UnsupportedError(
            f"backend: {backend} is not installed; run: pip install 'aligntune-operator[{backend}]'"
        )
    module, name = place.split(":")
    return cast("Callable[..., SFTTrainerBase]", getattr(importlib.import_module(module), name))


def create_sft_trainer(
    model_name: str | None = None,
    dataset_name: str | None = None,
    *,
    backend: str = "auto",
    config: SFTConfig | None = None,
    **options: object,
) -> SFTTrainerBase:
    """A trainer for supervised fine-tuning, ready for `train()`.

    Args:
        model_name: A hub name or a folder.
        dataset_name: A hub name, a file or a folder.
        backend: `trl` or `unsloth` is used or refused, never replaced; `auto` takes Unsloth where
            it is installed and can do this, else TRL, and logs which and why.
        config: What the arguments are laid over; only arguments that are given count.
        **options: The names in `SFT_OPTIONS`, each for one field of the config.

    Raises:
        ConfigError: An argument is unknown or out of range.
        UnsupportedError: No trainer can do this.
    """
    resolved = _sft_config(model_name, dataset_name, config, options)
    chosen = choose_backend(resolved) if backend == "auto" else backend
    check_supported(chosen, resolved)
    return trainer_for(chosen, task_of(resolved))(resolved)


def choose_backend(config: SFTSpec | RLSpec) -> str:
    """What `backend: auto` stands for, here and for this config; logs why.

    Raises:
        UnsupportedError: No backend can do this.
    """
    reasons = []
    for name in BACKENDS:
        try:
            check_supported(name, config)
        except UnsupportedError as error:
            reasons.append(str(error))
            continue
        if _status(name).installed:
            _log.info("backend auto chose %s%s", name, "".join(f"; {why}" for why in reasons))
            return name
        reasons.append(f"{name} is not installed")
    raise UnsupportedError(f"backend: auto finds none that can do this: {'; '.join(reasons)}")


def task_of(config: SFTSpec | RLSpec) -> str:
    """`sft`, `classification`, or the algorithm's name."""
    if isinstance(config, RLSpec):
        return config.algo.value
    return "classification" if config.task == TaskType.TEXT_CLASSIFICATION else "sft"


def _status(backend: str) -> BackendStatus:
    tasks = tuple(task for name, task in TRAINERS if name == backend)
    if importlib.util.find_spec(backend) is None:
        return BackendStatus(installed=False, version="", tasks=tasks)
    return BackendStatus(installed=True, version=metadata.version(backend), tasks=tasks)


def _sft_config(
    model_name: str | None,
    dataset_name: str | None,
    config: SFTConfig | None,
    options: dict[str, object],
) -> SFTConfig:
    document = config.model_dump(by_alias=False, exclude_unset=True) if config else {}
    if model_name is not None:
        _put(document, "model.name", model_name)
    if dataset_name is not None:
        _put(document, "datasets.0.name", dataset_name)
    for name, value in options.items():
        if name not in SFT_OPTIONS:
            raise ConfigError(f"{name}: unknown argument{_suggestion(name, SFT_OPTIONS)}")
        if value is not None:
            _put(document, SFT_OPTIONS[name], value)
    try:
        return SFTConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError("; ".join(map(str, mistakes(error, SFTConfig)))) from error


def _put(document: dict[str, Any], path: str, value: object) -> None:
    """Set `a.0.b` in nested dicts and lists, making those that are missing."""
    place: Any = document
    *parents, last = path.split(".")
    for key, following in zip(parents, [*parents[1:], last], strict=True):
        if key.isdecimal():
            if not place:
                place.append({})
            place = place[int(key)]
        else:
            if place.get(key) is None:
                place[key] = [] if following.isdecimal() else {}
            place = place[key]
    place[last] = value


def _suggestion(name: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))
