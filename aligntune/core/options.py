"""Keyword arguments that stand for fields of a config, for those who call from Python."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from aligntune.core.config.errors import mistakes
from aligntune.core.errors import ConfigError, suggestion
from aligntune.core.lifecycle import RunsConfig

SHARED_OPTIONS: dict[str, str] = {
    "model_name": "model.name",
    "dataset_name": "datasets.0.name",
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
    "gguf": "model.gguf",
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
"""Arguments of both factories, each for one field."""

SFT_OPTIONS = SHARED_OPTIONS | {
    "task": "task",
    "loss_on": "train.loss_on",
    "packing": "train.packing",
    "padding_free": "train.padding_free",
    "liger_kernel": "train.liger_kernel",
    "labels": "classification.labels",
    "class_weights": "classification.class_weights",
}
"""Arguments of `create_sft_trainer`, each for one field of `SFTConfig`."""

RL_OPTIONS = SHARED_OPTIONS | {
    "algorithm": "algo",
    "rewards": "rewards",
    "reward_model": "reward_model.name",
    "reference_model": "reference_model.name",
    "beta": "{algo}.beta",
    "loss": "{algo}.loss",
    "label_smoothing": "dpo.label_smoothing",
    "precompute_reference": "dpo.precompute_reference",
    "centering_coefficient": "reward.centering_coefficient",
    "num_generations": "grpo.num_generations",
    "prompts_per_step": "grpo.prompts_per_step",
    "epsilon": "grpo.epsilon",
    "epsilon_high": "grpo.epsilon_high",
    "max_prompt_length": "grpo.max_prompt_length",
    "num_iterations": "grpo.num_iterations",
    "scale_rewards": "grpo.scale_rewards",
    "importance_sampling": "grpo.importance_sampling",
    "kl_coefficient": "ppo.kl.coefficient",
    "kl_target": "ppo.kl.target",
    "kl_horizon": "ppo.kl.horizon",
    "kl_limit": "{algo}.kl_limit",
    "rollout_batch_size": "ppo.rollout_batch_size",
    "ppo_epochs": "ppo.epochs",
    "minibatches": "ppo.minibatches",
    "clip_range": "ppo.clip_range",
    "value_clip_range": "ppo.value_clip_range",
    "value_coefficient": "ppo.value_coefficient",
    "value_model": "ppo.value_model",
    "gamma": "ppo.gamma",
    "lam": "ppo.lam",
    "missing_eos_penalty": "ppo.missing_eos_penalty",
    "whiten_rewards": "ppo.whiten_rewards",
    "max_new_tokens": "generation.max_new_tokens",
    "temperature": "generation.temperature",
    "top_p": "generation.top_p",
    "top_k": "generation.top_k",
}
"""Arguments of `create_rl_trainer`, each for one field of `UnifiedConfig`; `{algo}` is the
algorithm's own section."""


def config_of(
    kind: type[RunsConfig],
    base: RunsConfig | None,
    given: Mapping[str, object],
    known: Mapping[str, str],
) -> RunsConfig:
    """A config with keyword arguments laid over it.

    Args:
        kind: The config's class.
        base: What the arguments are laid over; None: the defaults.
        given: Arguments by name; those that are None are not given.
        known: The field's path for each argument's name.

    Raises:
        ConfigError: An argument is unknown, or its value or the whole is not valid.
    """
    document = base.model_dump(by_alias=False, exclude_unset=True) if base else {}
    algo = str(given.get("algorithm") or document.get("algo") or "")
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{name}: unknown argument{suggestion(name, sorted(known))}")
        if value is not None:
            _put(document, known[name].format(algo=algo), value)
    try:
        return cast("RunsConfig", kind.model_validate(document))
    except ValidationError as error:
        raise ConfigError("; ".join(map(str, mistakes(error, kind)))) from error


def _put(document: dict[str, Any], path: str, value: object) -> None:
    """Set `a.0.b` in nested dicts and lists, making those that are missing."""
    place: Any = document
    *parents, last = path.split(".")
    for key, following in zip(parents, [*parents, last][1:], strict=True):
        if key.isdecimal():
            if not place:
                place.append({})
            place = place[int(key)]
        else:
            if place.get(key) is None:
                place[key] = [] if following.isdecimal() else {}
            place = place[key]
    place[last] = value
