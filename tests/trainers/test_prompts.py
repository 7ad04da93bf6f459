"""What rows become for PPO and GRPO: a prompt in the model's form, and all that rewards may see."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer

from aligntune.core.config.data import ColumnsConfig
from aligntune.core.errors import DataError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.data.pipeline import load, load_one
from aligntune.data.prompts import PROMPTS, Prompt, PromptEncoder, columns_of
from aligntune.data.shapes import recognise
from tests.trainers.tiny import write_jsonl


def prompt(row: dict[str, Any], **columns: str) -> tuple[str, Prompt]:
    """The shape that a row is recognised as, and what it becomes."""
    found = recognise(row, ColumnsConfig(**columns) if columns else None, PROMPTS, "datasets[0]")
    return found.shape.name, found.example(row)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("row", "shape", "answer"),
    [
        ({"prompt": "2+3?", "answer": "5"}, "prompt-answer", "5"),
        ({"question": "2+3?", "answer": 5}, "question-answer", 5),
        ({"problem": "2+3?", "answer": "5", "solution": "add"}, "problem-answer", "5"),
        ({"prompt": [user("2+3?")], "answer": ["5", "five"]}, "prompt-answer", ["5", "five"]),
        (
            {"messages": [user("2+3?"), {"role": "assistant", "content": "five"}]},
            "messages",
            "five",
        ),
        ({"messages": [user("2+3?")], "answer": "5"}, "messages", "5"),
        (
            {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]},
            "sharegpt",
            "5",
        ),
        ({"prompt": "2+3?", "completion": "5"}, "prompt-completion", "5"),
        (
            {"prompt": "2+3?", "completion": [{"role": "assistant", "content": "5"}]},
            "prompt-completion",
            "5",
        ),
        ({"instruction": "2+3?", "input": "", "output": "5"}, "alpaca", "5"),
        ({"prompt": "2+3?"}, "prompt", None),
        ({"question": "2+3?", "other": 1}, "question", None),
        ({"instruction": "2+3?"}, "instruction", None),
    ],
)
def test_the_prompt_ends_where_the_model_speaks_and_the_answer_is_kept_for_rewards(
    row: dict[str, Any], shape: str, answer: object
) -> None:
    name, found = prompt(row)
    assert name == shape
    assert found.messages == [user("2+3?")]
    assert found.columns.get("answer") == answer
    assert {name: found.columns[name] for name in row if name != "answer"} == {
        name: cell for name, cell in row.items() if name != "answer"
    }


def test_columns_name_the_prompt_and_the_answer_where_their_names_do_not() -> None:
    _, found = prompt({"q": "2+3?", "gold": "5", "text": "x"}, prompt="q", answer="gold")
    assert found == Prompt([user("2+3?")], {"q": "2+3?", "gold": "5", "text": "x", "answer": "5"})
    with pytest.raises(DataError, match="fit both prompt-answer and question-answer"):
        prompt({"prompt": "a", "question": "b", "answer": "c"})


def test_rows_of_different_columns_can_be_mixed_and_come_back_as_they_were(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "2+3?", "answer": "5", "metadata": {"terms": [2, 3]}},
        {"question": "1+1?", "answer": 2, "level": None},
    ]
    config = grpo(
        tiny_model,
        tmp_path,
        datasets=[
            {"name": str(write_jsonl(tmp_path / f"{number}.jsonl", [row]))}
            for number, row in enumerate(rows)
        ],
    )
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tiny_model), max_prompt_length=50)
    parts = [load_one(source.name, config, encoder) for source in config.datasets]
    mixed = concatenate_datasets(parts)
    assert columns_of(mixed["row"][:]) == {
        "prompt": ["2+3?", None],
        "answer": ["5", 2],
        "metadata": [{"terms": [2, 3]}, None],
        "question": [None, "1+1?"],
        "level": [None, None],
    }
    assert mixed["prompt"][:] == [[user("2+3?")], [user("1+1?")]]


def test_prompts_that_are_too_long_or_empty_are_left_out_and_counted(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": text, "answer": "5"} for text in ("2+3?", "2+3? " * 30, "  ")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = grpo(tiny_model, tmp_path, datasets=[{"name": str(data)}])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with caplog.at_level("INFO"):
        loaded = load(config, PromptEncoder(tokenizer, max_prompt_length=30))
    assert isinstance(loaded.train, Dataset)
    assert (loaded.sources[0].kept, loaded.sources[0].dropped) == (1, 2)
    assert loaded.train["prompt_ids"][0] == tokenizer.apply_chat_template(
        [user("2+3?")], add_generation_prompt=True, return_dict=False
    )
    assert "2+3?<|im_end|>\n<|im_start|>assistant\n«(the model's own answer)»" in caplog.text


def test_a_prompt_that_the_template_refuses_is_a_sentence(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('no system message') }}"
    with pytest.raises(DataError, match="refuses the conversation: no system message"):
        PromptEncoder(tokenizer, max_prompt_length=30).encode([Prompt([user("2+3?")], {})])


def grpo(model: Path, folder: Path, **sections: Any) -> UnifiedConfig:
    base = {"algo": "grpo", "model": {"name": str(model)}, "rewards": [{"name": "exact_match"}]}
    return UnifiedConfig.model_validate(base | {"output_dir": str(folder / "out")} | sections)
