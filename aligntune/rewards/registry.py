"""From the config to reward functions that are ready to score."""

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count
from typing import Any, Literal

from aligntune.core.errors import ConfigError, suggestion
from aligntune.core.rl.config import RewardFunction, UnifiedConfig
from aligntune.rewards.answers import exact_match, numeric_answer
from aligntune.rewards.form import json_valid, length, regex, repetition
from aligntune.rewards.model import RewardModel
from aligntune.rewards.puzzles import reasoning_gym
from aligntune.rewards.scoring import Batch, Reward
from aligntune.training.machine import resolve_precision, this_machine

Function = Callable[..., Sequence[float | None]]
"""Called with a `Batch` and the config's params; one number or None per completion."""

REWARDS: dict[str, Function] = {
    "exact_match": exact_match,
    "numeric_answer": numeric_answer,
    "regex": regex,
    "length": length,
    "repetition": repetition,
    "json_valid": json_valid,
    "reasoning_gym": reasoning_gym,
}
"""The functions that a config names without a module."""

REWARD_MODEL: Literal["reward_model"] = "reward_model"
"""The name under which the model in `rewardModel` takes a weight."""

NOTHING = Batch([], [], {})


def load_rewards(config: UnifiedConfig) -> list[Reward]:
    """Every reward of a run: the functions in their order, and the reward model.

    A reward model without an entry in `rewards` counts with weight 1 and has no time limit.

    Raises:
        ConfigError: A function is unknown, or does not take its parameters.
        ModelNotFoundError, UnauthorizedError: There is no such reward model, or not for this token.
    """
    asked = [
        (entry, f"rewards[{index}] {entry.name!r}") for index, entry in enumerate(config.rewards)
    ]
    bare = [entry.name.rpartition(":")[2] for entry in config.rewards]
    *names, models_name = _unique([*bare, REWARD_MODEL])
    rewards = [
        Reward(name, entry.weight, _ready(entry, place, config), entry.timeout_seconds, place)
        for name, (entry, place) in zip(names, asked, strict=True)
    ]
    listed = any(entry.name == REWARD_MODEL for entry in config.rewards)
    if config.reward_model is not None and not listed:
        rewards.append(Reward(models_name, 1.0, _model(config), None, "rewardModel"))
    return rewards


def _ready(
    entry: RewardFunction, place: str, config: UnifiedConfig
) -> Callable[[Batch], Sequence[float | None]]:
    """The function with its parameters, which it is known to take."""
    if entry.name == REWARD_MODEL:
        if config.reward_model is None:
            raise ConfigError(f"{place}: there is no model to ask; name one in rewardModel")
        _check_params(RewardModel, (config.reward_model, "fp32"), entry, place)
        return _model(config, **entry.params)
    if ":" in entry.name:
        function = _own(entry.name, place)
        _check_params(function, (NOTHING,), entry, place)
        return partial(function, **entry.params)
    registered = REWARDS.get(entry.name)
    if registered is None:
        raise ConfigError(f"{place}: unknown{suggestion(entry.name, [*REWARDS, REWARD_MODEL])}")
    _check_params(registered, (NOTHING,), entry, place)
    ready = partial(registered, **entry.params)
    try:
        ready(NOTHING)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error
    return ready


def _model(config: UnifiedConfig, **params: Any) -> RewardModel:  # noqa: ANN401
    assert config.reward_model is not None  # noqa: S101 - asked by the callers
    computed_in = resolve_precision(config.train.precision, this_machine())
    return RewardModel(config.reward_model, computed_in, **params)


def _own(name: str, place: str) -> Function:
    """The user's function behind `module:function`."""
    module_name, _, function_name = name.rpartition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{place}: there is no module {error.name!r}; mount it, and put its folder into"
            " PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{place}: importing {module_name} fails with {type(error).__name__}: {error}"
            f" ({last.filename}, line {last.lineno})"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{place}: {module_name} has no function {function_name!r}"
            f"{suggestion(function_name, known)}"
        )
    return function  # type: ignore[no-any-return]


def _check_params(
    function: Callable[..., object], given: tuple[object, ...], entry: RewardFunction, place: str
) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*given, **entry.params)
    except TypeError as error:
        takes = [*map(str, signature.parameters.values())][len(given) :]
        raise ConfigError(
            f"{place}: params: {error}; it takes {', '.join(takes) or 'none'}"
        ) from error


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those whose metrics would be those of another."""
    taken, unique = {"mean", "std"}, []  # reward_mean and reward_std are of the weighted sum
    for name in names:
        numbered = chain([name], (f"{name}_{number}" for number in count(2)))
        free = next(one for one in numbered if taken.isdisjoint((one, f"{one}_std")))
        taken |= {free, f"{free}_std"}
        unique.append(free)
    return unique
