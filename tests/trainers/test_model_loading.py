"""What a model's own limits mean for what it is fed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.backend_factory import create_rl_trainer
from aligntune.core.errors import ConfigError
from aligntune.training.adapters import as_whole_model
from aligntune.training.model_loading import learned_positions
from tests.hub.content import dialogpt
from tests.trainers.tiny import MakeConfig, MakeRLConfig

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


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_base_whose_generation_config_transformers_would_not_save_is_trained_and_saved(
    config: MakeConfig, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    file = base / "generation_config.json"
    flags = {"temperature": 0.9, "top_p": 0.6, "length_penalty": 2.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | flags))
    made = config(model={"name": str(base), "tuning": tuning}, train={"max_steps": 2})
    trainer = TRLSFTTrainer(made)
    result = trainer.train()
    assert result.checkpoint_path is not None
    model = made.model.model_copy(update={"name": str(trainer.save_model())})
    for folder in (Path(model.name), Path(as_whole_model(model, trust_remote_code=False).name)):
        saved = GenerationConfig.from_pretrained(folder)
        assert (saved.do_sample, saved.temperature, saved.top_p) == (True, 0.9, 0.6)
        assert saved.length_penalty is None


@pytest.fixture
def chatml_base(tiny_model: Path, tmp_path: Path) -> Path:
    """A base that ends texts with a token and turns with another, as those of Qwen do."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    for part in (model.config, model.generation_config):
        part.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(base)
    return base


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_saved_model_stops_where_its_turns_end(
    config: MakeConfig, chatml_base: Path, tuning: str
) -> None:
    made = config(model={"name": str(chatml_base), "tuning": tuning}, train={"max_steps": 1})
    trainer = TRLSFTTrainer(made)
    trainer.train()
    ends = trainer.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert GenerationConfig.from_pretrained(trainer.save_model()).eos_token_id == ends


def test_a_template_without_a_token_at_the_end_of_a_turn_changes_no_end(
    config: MakeConfig, chatml_base: Path
) -> None:
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    trainer = TRLSFTTrainer(config(model={"name": str(chatml_base), "chat_template": template}))
    trainer.setup_model()
    assert trainer.model.generation_config.eos_token_id == trainer.tokenizer.eos_token_id


@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_sampled_answers_stop_where_a_turn_ends(
    pairs_config: MakeRLConfig, chatml_base: Path, algo: str
) -> None:
    settings: dict[str, Any] = {
        "ppo": {"ppo": {"rollout_batch_size": 8, "epochs": 1}},
        "grpo": {"grpo": {"prompts_per_step": 2, "num_generations": 4}},
    }[algo]
    sampled = {"rewards": [{"name": "length"}], "generation": {"max_new_tokens": 5}}
    trainer = create_rl_trainer(
        config=pairs_config(algo, model={"name": str(chatml_base)}, **settings, **sampled),
        backend="trl",
    )
    loop = trainer.ensure_loop()
    ends = trainer._end_tokens() if algo == "ppo" else loop.eos_token_ids
    assert ends == trainer.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
