"""A tiny model that gives right answers to 40% of the sums of two digits, and wrong ones else.

    python bench/digits.py [FOLDER]

Writes into FOLDER (default: runs/learning/digits):

- `model`: a Llama of two layers and 83 thousand weights that reads characters. It was trained on
  answers that are right with the probability `RIGHT` and off by one or two otherwise, so that it
  has learned to add, and to be wrong: what a reward can take away from it again.
- `train.jsonl`: 75 of the 100 sums, `prompt` ("3+4=") and `answer` ("7"); `test.jsonl`: the rest.

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
RIGHT = 0.4
"""Of the answers that are learned: of eight samples, few groups are then all right or all wrong."""
STEPS = 500
HELD_OUT = 25
CHARACTERS = "0123456789+="
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def sums() -> list[dict[str, str]]:
    """All sums of two digits."""
    return [
        {"prompt": f"{one}+{other}=", "answer": str(one + other)}
        for one, other in itertools.product(range(10), repeat=2)
    ]


def answered(row: dict[str, str], chance: random.Random) -> str:
    """A sum with an answer, right or not."""
    off = 0 if chance.random() < RIGHT else chance.choice((-2, -1, 1, 2))
    return f"{row['prompt']}{abs(int(row['answer']) + off)}<eos>"


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


def warm(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Learn all sums, with answers drawn anew in each step."""
    chance = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, STEPS)
    for _ in range(STEPS):
        rows = [answered(row, chance) for row in sums()]
        tokens: Any = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")
        ids, learned = tokens["input_ids"], tokens["attention_mask"][:, 1:].clone()
        learned[:, : len("3+4")] = 0
        logits = model(**tokens).logits[:, :-1]
        logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * learned
        optimizer.zero_grad()
        (-logps.sum() / learned.sum()).backward()
        optimizer.step()
        schedule.step()


def prepare(folder: Path) -> Path:
    """Make model and data, unless they are there; returns the folder."""
    if (folder / "test.jsonl").is_file():
        return folder
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    warm(model, tokenizer)
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
