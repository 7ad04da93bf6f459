"""Which trainer does what, and building one from a few keyword arguments."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, cast

from pydantic.alias_generators import to_camel

from aligntune.core.errors import UnsupportedError
from aligntune.core.options import RL_OPTIONS, SFT_OPTIONS, config_of
from aligntune.core.rl.config import SAMPLING, RLSpec, UnifiedConfig
from aligntune.core.rl.trainer_base import TrainerBase
from aligntune.core.sft.config import SFTConfig, SFTSpec, TaskType
from aligntune.core.sft.trainer_base import SFTTrainerBase
from aligntune.core.unsloth_limits import FORCE_CPU, has_device, limits

TRAINERS: dict[tuple[str, str], str] = {
    ("trl", "sft"): "aligntune.backends.trl.sft.sft:TRLSFTTrainer",
    ("trl", "dpo"): "aligntune.backends.trl.rl.dpo.dpo:TRLDPOTrainer",
    ("trl", "ppo"): "aligntune.backends.trl.rl.ppo.ppo:TRLPPOTrainer",
    ("trl", "reward"): "aligntune.backends.trl.rl.reward.reward:TRLRewardTrainer",
    ("trl", "classification"): "aligntune.backends.trl.sft.classification:ClassificationTrainer",
    ("trl", "grpo"): "aligntune.backends.trl.rl.grpo.grpo:TRLGRPOTrainer",
    ("unsloth", "sft"): "aligntune.backends.unsloth.sft.sft:UnslothSFTTrainer",
    ("unsloth", "dpo"): "aligntune.backends.unsloth.rl.dpo.dpo:UnslothDPOTrainer",
    ("unsloth", "ppo"): "aligntune.backends.unsloth.rl.ppo.ppo:UnslothPPOTrainer",
    ("unsloth", "grpo"): "aligntune.backends.unsloth.rl.grpo.grpo:UnslothGRPOTrainer",
}
"""The trainers of this version: (backend, task) -> module:class."""

BACKENDS = ("unsloth", "trl")
"""In the order in which `auto` tries them."""

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
    if backend == "unsloth":
        for limit in limits(config):
            raise UnsupportedError(
                f"{limit.sentence}; remove it, or use backend: trl",
                *(section, *limit.field.split(".")),
            )
    if task in SAMPLING and (strategy := config.distributed.strategy) in ("fsdp2", "zero3"):
        raise UnsupportedError(
            f"{strategy} has not been run with {task}, which samples from whole weights; use ddp or"
            " zero2",
            *(section, "distributed", "strategy"),
        )
    if isinstance(config, SFTSpec) and config.model.attention != "flash_attention_2":
        for field in ("packing", "padding_free"):
            if getattr(config.train, field):
                raise UnsupportedError(
                    "needs model.attention: flash_attention_2, or rows would see each other",
                    *(section, "train", to_camel(field)),
                )


def trainer_for(backend: str, task: str) -> Callable[..., SFTTrainerBase | TrainerBase]:
    """The trainer class, to be called with its config. Its module, and torch, is imported now.

    Raises:
        UnsupportedError: There is none, or the backend's package is not installed.
    """
    place = TRAINERS.get((backend, task))
    if place is None:
        raise UnsupportedError(f"backend: {backend} has no trainer for {task} here")
    if not _status(backend).installed:
        raise UnsupportedError(
            f"backend: {backend} is not there: install aligntune-operator with its extra"
            f" [{backend}]"
        )
    if backend != "unsloth" and "unsloth" in sys.modules:
        raise UnsupportedError(
            f"backend: unsloth has changed {backend} in this process; start a new one for {backend}"
        )
    module, name = place.split(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))


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
    given = {"model_name": model_name, "dataset_name": dataset_name} | options
    resolved = config_of(SFTConfig, config, given, SFT_OPTIONS)
    return cast("SFTTrainerBase", _trainer(backend, resolved))


def create_rl_trainer(
    model_name: str | None = None,
    dataset_name: str | None = None,
    algorithm: str | None = None,
    *,
    backend: str = "auto",
    rewards: Sequence[Mapping[str, object]] | None = None,
    reward_model: str | None = None,
    reference_model: str | None = None,
    config: UnifiedConfig | None = None,
    **options: object,
) -> TrainerBase:
    """A trainer that aligns a model by preferences or rewards, ready for `train()`.

    Args:
        model_name: A hub name or a folder.
        dataset_name: A hub name, a file or a folder.
        algorithm: `dpo`, `ppo`, `grpo`, or `reward` for the reward model that PPO needs.
        backend: `trl` or `unsloth` is used or refused, never replaced; `auto` takes Unsloth where
            it is installed and can do this, else TRL, and logs which and why.
        rewards: Reward functions: `{"name": ..., "weight": ..., "params": {...}}` each.
        reward_model: A model that scores answers, by hub name or folder.
        reference_model: The frozen model that the policy is held to; default: the model as it is.
        config: What the arguments are laid over; only arguments that are given count.
        **options: The names in `RL_OPTIONS`, each for one field of the config.

    Raises:
        ConfigError: An argument is unknown or out of range.
        UnsupportedError: No trainer can do this.
    """
    given = {
        "model_name": model_name,
        "dataset_name": dataset_name,
        "algorithm": algorithm,
        "rewards": None if rewards is None else [dict(reward) for reward in rewards],
        "reward_model": reward_model,
        "reference_model": reference_model,
    } | options
    resolved = config_of(UnifiedConfig, config, given, RL_OPTIONS)
    return cast("TrainerBase", _trainer(backend, resolved))


def _trainer(backend: str, config: SFTConfig | UnifiedConfig) -> object:
    chosen = choose_backend(config) if backend == "auto" else backend
    check_supported(chosen, config)
    return trainer_for(chosen, task_of(config))(config)


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
        if not _status(name).installed:
            reasons.append(f"{name} is not installed")
        elif name == "unsloth" and not has_device():
            reasons.append(f"unsloth needs a GPU, or {FORCE_CPU}=1")
        else:
            _log.info("backend auto chose %s%s", name, "".join(f"; {why}" for why in reasons))
            return name
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
