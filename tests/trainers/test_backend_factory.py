"""Which trainer is chosen or refused, and how arguments become a config."""

import importlib

import pytest

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core import backend_factory as factory
from aligntune.core.config.base import Section
from aligntune.core.errors import ConfigError, UnsupportedError
from aligntune.core.options import RL_OPTIONS, SFT_OPTIONS, config_of
from aligntune.core.rl.config import AlgorithmType, UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from tests.trainers.tiny import MakeConfig


def test_every_trainer_of_the_table_can_be_imported() -> None:
    for place in factory.TRAINERS.values():
        module, name = place.split(":")
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("config", "options"), [(SFTConfig, SFT_OPTIONS), (UnifiedConfig, RL_OPTIONS)]
)
def test_every_argument_is_a_field_of_the_config(
    config: type[Section], options: dict[str, str]
) -> None:
    for path in options.values():
        assert any(_is_field(config, path.format(algo=algo)) for algo in AlgorithmType), path


def _is_field(config: type[Section], path: str) -> bool:
    fields = config.model_fields
    for name in (part for part in path.split(".") if not part.isdecimal()):
        if name not in fields:
            return False
        models = _models(fields[name].annotation)
        fields = models[0].model_fields if models else {}
    return True


def _models(annotation: object) -> list[type]:
    from typing import get_args

    if hasattr(annotation, "model_fields"):
        return [annotation]  # type: ignore[list-item]
    return [model for part in get_args(annotation) for model in _models(part)]


def test_arguments_lie_over_the_config_and_only_those_given(config: MakeConfig) -> None:
    base = config(train={"max_steps": 3, "learning_rate": 0.25}, datasets=[{"name": "a"}])
    trainer = factory.create_sft_trainer(
        config=base, backend="trl", dataset_name="b", batch_size=9, split="test", max_samples=5
    )
    assert isinstance(trainer, TRLSFTTrainer)
    made = trainer.config
    assert (made.train.max_steps, made.train.learning_rate) == (3, 0.25)
    assert (made.train.per_device_batch_size, made.model) == (9, base.model)
    source = made.datasets[0]
    assert (source.name, source.split, source.max_samples) == ("b", "test", 5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rat": 1}, "learning_rat: unknown argument; did you mean 'learning_rate'?"),
        ({"batch_size": 0}, "train.per_device_batch_size: must be greater than or equal to 1"),
        ({"tuning": "full", "lora_r": 4}, "adapter settings have no effect with tuning: full"),
    ],
)
def test_a_wrong_argument_is_a_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        factory.create_sft_trainer("model", "data", backend="trl", **options)
    assert sentence in str(error.value)


def test_a_named_backend_is_used_or_refused_and_auto_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UnsupportedError, match=r"unsloth has no trainer for sft here; use .* trl"):
        factory.create_sft_trainer("model", "data", backend="unsloth")
    with caplog.at_level("INFO"):
        given = {"model_name": "m", "dataset_name": "d"}
        assert factory.choose_backend(config_of(SFTConfig, None, given, SFT_OPTIONS)) == "trl"
    assert "backend auto chose trl; spec.backend: unsloth has no trainer" in caplog.text
    status = factory.get_backend_status()
    assert status["trl"].installed
    assert "sft" in status["trl"].tasks
    assert "trl" in factory.list_backends()
