"""A tiny model that is right in 40% of the sums of three digits: what RL is measured on.

    python bench/digits.py [FOLDER]

Writes into FOLDER (default: runs/learning/digits):

- `model`: a Llama of two layers and 83 thousand weights that reads characters. It was trained on
  all 1000 sums until it gave the right answer with a mean probability of `START`.
- `train.jsonl`: 800 of the sums, `prompt` ("3+4+5=") and `answer` ("12"); `test.jsonl`: the rest.

Everything follows from one seed. What is there already is left alone.
"""

import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
START = 0.4
"""Mean probability of the right answer: of eight samples, few groups are all right or all wrong."""
HELD_OUT = 200
BATCH = 250
"""Sums per step of the first training."""
CHARACTERS = "0123456789+="
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def sums() -> list[dict[str, str]]:
    """All 1000 sums of three digits."""
    return [
        {"prompt": "+".join(map(str, digits)) + "=", "answer": str(sum(digits))}
        for digits in itertools.product(range(10), repeat=3)
    ]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def warm(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Learn the sums until the right answer has the probability `START`; returns that reached."""
    rows = [f"{row['prompt']}{row['answer']}<eos>" for row in sums()]
    tokens: Any = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")
    learned = tokens["attention_mask"].clone()
    learned[:, : len("3+4+5=")] = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    while True:
        batch = torch.randperm(len(rows))[:BATCH]
        ids, mask = tokens["input_ids"][batch], learned[batch, 1:]
        logits = model(input_ids=ids, attention_mask=tokens["attention_mask"][batch]).logits
        logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask
        right: float = logps.sum(1).exp().mean().item()
        if right >= START:
            return right
        optimizer.zero_grad()
        (-logps.sum() / mask.sum()).backward()
        optimizer.step()


def prepare(folder: Path) -> Path:
    """Make model and data, unless they are there; returns the folder."""
    if (folder / "test.jsonl").is_file():
        return folder
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"right with probability {warm(model, tokenizer):.3f}")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = sums()
    random.Random(SEED).shuffle(rows)
    for name, part in (("train", rows[HELD_OUT:]), ("test", rows[:HELD_OUT])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    return folder


if __name__ == "__main__":
    prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/learning/digits"))
