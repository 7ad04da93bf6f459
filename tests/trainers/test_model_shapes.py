"""Parameters as derived from config.json, held to those of transformers' own models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aligntune.core.config.model import ModelRef
from aligntune.core.errors import ConfigError, ModelNotFoundError
from aligntune.core.memory.shape import FAMILIES, shape_of
from aligntune.model_config import read_shape, shape_at

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("more", [{}, {"attention_bias": True}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_parameters_of_a_kind_are_those_of_its_model(
    kind: str, more: dict[str, Any], tmp_path: Path
) -> None:
    config = AutoConfig.for_model(kind, **SIZES, **more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    shape = shape_of(json.loads((tmp_path / "config.json").read_text()), "model")
    assert shape.parameters == model.num_parameters()
    linear = {
        name: part.weight.numel()
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and name != "lm_head"
    }
    assert shape.linear_parameters == sum(linear.values())


def test_of_a_kind_that_is_not_known_the_parameters_are_counted_in_its_files(
    tiny_model: Path, tmp_path: Path
) -> None:
    known = read_shape(ModelRef(name=str(tiny_model)))
    config = json.loads((tiny_model / "config.json").read_text()) | {"model_type": "strange"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"type 'strange' cannot be estimated; it can of llama"):
        read_shape(ModelRef(name=str(tmp_path)))
    (tmp_path / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
    counted = read_shape(ModelRef(name=str(tmp_path)))
    assert counted.parameters == known.parameters
    assert counted.counted is not None


def test_a_model_whose_config_lacks_a_number_is_refused_with_its_name(tmp_path: Path) -> None:
    config = {"model_type": "llama"} | SIZES
    del config["intermediate_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config.json has no number 'intermediate_size'"):
        read_shape(ModelRef(name=str(tmp_path)))


def test_a_model_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such folder on this machine; .*--model"):
        read_shape(ModelRef(name=str(tmp_path / "absent")))
    with pytest.raises(ModelNotFoundError, match=r"model.name 'a/b': main is not in the cache"):
        read_shape(ModelRef(name="a/b"))
    with pytest.raises(ModelNotFoundError, match=r"folder has no config.json; for adapters, .*ase"):
        read_shape(ModelRef(name=str(tmp_path)))


def test_a_stage_has_the_shape_of_the_job_that_it_starts_from(tiny_model: Path) -> None:
    stage = ModelRef(from_job="chat")
    known = read_shape(ModelRef(name=str(tiny_model)))
    assert shape_at(stage, None, {"chat": known}) is known
    assert shape_at(stage, tiny_model, {}) == known
    with pytest.raises(
        ConfigError, match=r"model\.fromJob: there is no job chat .* --model FOLDER"
    ):
        shape_at(stage, None, {})
