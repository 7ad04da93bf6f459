"""What a model's own limits mean for what it is fed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.errors import ConfigError
from aligntune.training.model_loading import learned_positions
from tests.hub.content import dialogpt
from tests.trainers.tiny import MakeConfig

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "ffn_dim": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "rotary_dim": 4,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj", "codegen", "bert", "roberta"])
def test_a_model_with_learned_positions_reads_as_many_and_not_one_more(kind: str) -> None:
    torch.manual_seed(0)
    shape = AutoConfig.for_model(kind, **SIZES)
    auto = AutoModelForSequenceClassification if "bert" in kind else AutoModelForCausalLM
    model = auto.from_config(shape)
    longest = learned_positions(model)
    assert longest is not None
    model(torch.full((1, longest), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 7))


def test_sequences_beyond_a_models_learned_positions_are_refused_with_a_sentence(
    config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    folder = dialogpt(tmp_path / "gpt2", tiny_model)
    trainer = TRLSFTTrainer(config(model={"name": str(folder), "max_length": 257}))
    with pytest.raises(ConfigError, match=r"model.maxLength 257: the model has learned 256 posit"):
        trainer.setup_model()


def test_a_model_with_rotary_positions_may_be_stretched(config: MakeConfig) -> None:
    trainer = TRLSFTTrainer(config(model={"max_length": 300}))
    trainer.setup_model()
    assert trainer.max_length == 300
