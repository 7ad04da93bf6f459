"""Small models and data sets in the layouts that their namesakes have on the hub."""

import gzip
import json
from pathlib import Path

from tests.trainers.tiny import sums

HH_RLHF = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


def alpaca(folder: Path, rows: int = 32) -> Path:
    """As tatsu-lab/alpaca: one parquet file; `text` repeats the other columns in prose."""
    from datasets import Dataset

    content = [
        {
            "instruction": row["prompt"],
            "input": "",
            "output": row["completion"],
            "text": f"### Instruction:\n{row['prompt']}\n\n### Response:\n{row['completion']}",
        }
        for row in sums(rows)
    ]
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(content).to_parquet(folder / "data" / "train-00000-of-00001-a09b74b3.parquet")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Alpaca\n")
    return folder


def hh_rlhf(folder: Path, rows: int = 8) -> Path:
    """As Anthropic/hh-rlhf: pairs of whole dialogues, chosen and rejected, in several folders."""
    for number, part in enumerate(HH_RLHF):
        (folder / part).mkdir(parents=True)
        for split, seed in (("train", number), ("test", 100 + number)):
            with gzip.open(folder / part / f"{split}.jsonl.gz", "wt") as lines:
                for row in sums(rows, seed):
                    dialogue = f"\n\nHuman: {row['prompt']}\n\nAssistant: "
                    pair = {
                        "chosen": dialogue + row["completion"],
                        "rejected": dialogue + "I do not know.",
                    }
                    lines.write(json.dumps(pair) + "\n")
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [human-feedback]\n---\n# HH-RLHF\n")
    return folder


def dialogpt(folder: Path, tokenizer: Path) -> Path:
    """As microsoft/DialoGPT-medium: a GPT-2 whose tokenizer has no chat template."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.chat_template = None
    words.eos_token = words.pad_token
    words.save_pretrained(folder)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=len(words),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id,
    )
    GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder
