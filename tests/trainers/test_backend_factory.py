"""Which trainer is chosen or refused, and how arguments become a config."""

import importlib
import sys

import pytest

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core import backend_factory as factory
from aligntune.core.config.base import Section
from aligntune.core.errors import ConfigError, UnsupportedError
from aligntune.core.options import RL_OPTIONS, SFT_OPTIONS, config_of
from aligntune.core.rl.config import AlgorithmType, UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.core.unsloth_limits import FORCE_CPU
from tests.trainers.tiny import UNSLOTH, MakeConfig


def test_every_trainer_of_the_table_can_be_imported() -> None:
    """Those on Unsloth need a process of their own: `test_unsloth.py`."""
    for (backend, _), place in factory.TRAINERS.items():
        if backend == "trl":
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


GIVEN = {"model_name": "m", "dataset_name": "d"}


def test_a_named_backend_is_used_or_refused_and_never_replaced() -> None:
    with pytest.raises(UnsupportedError, match="backend: unsloth is not there: install"):
        factory.create_sft_trainer("model", "data", backend="unsloth")
    with pytest.raises(UnsupportedError, match=r"unsloth has no trainer for classification here"):
        factory.create_sft_trainer("m", "d", backend="unsloth", task="text_classification")
    with pytest.raises(
        UnsupportedError, match=r"unsloth has no trainer for reward here; use .* trl"
    ):
        factory.create_rl_trainer("m", "d", "reward", backend="unsloth")


def test_auto_takes_what_is_there_and_says_which_and_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCE_CPU, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = config_of(SFTConfig, None, GIVEN, SFT_OPTIONS)
    with caplog.at_level("INFO"):
        assert factory.choose_backend(config) == "trl"
        monkeypatch.syspath_prepend(str(UNSLOTH))
        assert factory.choose_backend(config) == "trl"
        monkeypatch.setenv(FORCE_CPU, "1")
        assert factory.choose_backend(config) == "unsloth"
        other = config_of(SFTConfig, None, GIVEN | {"attention": "eager"}, SFT_OPTIONS)
        assert factory.choose_backend(other) == "trl"
    assert caplog.messages[:3] == [
        "backend auto chose trl; unsloth is not installed",
        f"backend auto chose trl; unsloth needs a GPU, or {FORCE_CPU}=1",
        "backend auto chose unsloth",
    ]
    assert "chose trl; spec.sft.model.attention: unsloth chooses" in caplog.messages[3]


def test_the_status_tells_version_and_tasks_and_imports_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert factory.list_backends() == ["trl"]
    assert not factory.get_backend_status()["unsloth"].installed
    monkeypatch.syspath_prepend(str(UNSLOTH))
    assert factory.list_backends() == ["unsloth", "trl"]
    status = factory.get_backend_status()
    assert status["unsloth"] == (True, "2026.10.9", ("sft", "dpo", "ppo", "grpo"))
    assert set(status["trl"].tasks) == {"sft", "classification", "dpo", "ppo", "grpo", "reward"}
    assert "unsloth" not in sys.modules


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attention": "sdpa"}, "spec.sft.model.attention: unsloth chooses the kernel itself"),
        ({"compile": True}, "spec.sft.train.compile: unsloth compiles what pays by itself"),
        ({"liger_kernel": True}, "spec.sft.train.ligerKernel: unsloth has kernels of its own"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            "spec.sft.model.lora.targetModules: unsloth trains lm_head and embed_tokens in full",
        ),
    ],
)
def test_what_unsloth_would_not_honour_is_refused_with_the_backend_that_does(
    options: dict[str, object], sentence: str
) -> None:
    config = config_of(SFTConfig, None, GIVEN | options, SFT_OPTIONS)
    with pytest.raises(UnsupportedError) as error:
        factory.check_supported("unsloth", config)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith("remove it, or use backend: trl")
    factory.check_supported("trl", config)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"generation": {"vllm": "colocate"}}, "spec.rl.generation.vllm: unsloth generates with"),
        ({"distributed": {"strategy": "zero2"}}, "spec.rl.distributed.strategy: unsloth trains in"),
    ],
)
def test_neither_vllm_nor_shards_with_unsloth(sections: dict[str, object], sentence: str) -> None:
    document = {"algo": "grpo", "model": {"name": "m"}, "datasets": [{"name": "d"}]}
    config = UnifiedConfig.model_validate(document | {"rewards": [{"name": "length"}]} | sections)
    with pytest.raises(UnsupportedError, match=sentence):
        factory.check_supported("unsloth", config)
    factory.check_supported("trl", config)
