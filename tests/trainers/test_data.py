"""From rows of many shapes to token ids: what is recognised, learned, mixed, dropped, counted."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.config.data import ColumnsConfig, DatasetConfig
from aligntune.core.errors import DataError
from aligntune.data.mixing import draw
from aligntune.data.rendering import IGNORED, PLAIN_CHAT_TEMPLATE, Renderer
from aligntune.data.shapes import SUPERVISED, Example, recognise
from aligntune.data.sources import read
from tests.trainers.tiny import MakeConfig, losses, sums, write_jsonl

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "shape", "example"),
    [
        (
            {"instruction": "q", "input": "", "output": "a", "text": "all of it"},
            "alpaca",
            Example([USER, ASSISTANT], 1),
        ),
        (
            {"instruction": "q", "input": "context", "output": "a"},
            "alpaca",
            Example([{"role": "user", "content": "q\n\ncontext"}, ASSISTANT], 1),
        ),
        (
            {"prompt": "q", "messages": [USER, ASSISTANT], "chosen": [], "rejected": []},
            "messages",
            Example([USER, ASSISTANT]),
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            Example([USER, ASSISTANT]),
        ),
        ({"prompt": "q", "completion": "a"}, "prompt-completion", Example([USER, ASSISTANT], 1)),
        (
            {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]},
            "prompt-completion",
            Example([USER, ASSISTANT, USER, ASSISTANT], 3),
        ),
        (
            {"prompt": "q", "completion": 4},
            "prompt-completion",
            Example([USER, {"role": "assistant", "content": "4"}], 1),
        ),
        ({"text": "once upon a time"}, "text", Example([], text="once upon a time")),
    ],
)
def test_shapes_are_recognised_by_their_columns(
    row: dict[str, Any], shape: str, example: Example
) -> None:
    recognised = recognise(row, None, SUPERVISED, "datasets[0]")
    assert recognised.shape.name == shape
    assert recognised.example(row) == example


@pytest.mark.parametrize(
    ("columns", "chosen", "sentence"),
    [
        (
            ["messages", "conversations"],
            {},
            "datasets[0]: the columns conversations, messages fit both messages and sharegpt; say",
        ),
        (["prompt", "completion", "instruction", "output"], {}, "fit both"),
        (
            ["chosen", "rejected"],
            {},
            "no shape fits the columns chosen, rejected. Accepted are messages: messages; sharegpt",
        ),
        (["prompt"], {"completion": "answer"}, "columns.completion names 'answer', but"),
        (["prompt", "completion", "a"], {"label": "a"}, "with columns set to {'label': 'a'}"),
    ],
)
def test_a_tie_or_nothing_fitting_is_an_error_that_names_the_columns(
    columns: list[str], chosen: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DataError) as error:
        recognise(columns, ColumnsConfig(**chosen), SUPERVISED, "datasets[0]")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("columns", "chosen", "row"),
    [
        (["question", "answer", "text"], {"prompt": "question", "completion": "answer"}, "q"),
        (["question", "output"], {"prompt": "question"}, "q"),
        (["messages", "conversations"], {"messages": "messages"}, "m"),
    ],
)
def test_columns_override_recognition(columns: list[str], chosen: dict[str, str], row: str) -> None:
    recognised = recognise(columns, ColumnsConfig(**chosen), SUPERVISED, "datasets[0]")
    assert set(chosen.items()) <= set(recognised.columns.items())
    assert recognised.shape.name in {"q": ("prompt-completion", "alpaca"), "m": ("messages",)}[row]


@pytest.mark.parametrize(
    ("loss_on", "learned"),
    [
        ("auto", ["a1<|im_end|>\n", "a2<|im_end|>\n"]),
        ("assistant", ["a1<|im_end|>\n", "a2<|im_end|>\n"]),
        ("completion", ["a2<|im_end|>\n"]),
        ("all", None),
    ],
)
def test_conversations_are_learned_where_the_assistant_speaks(
    tiny_model: Path, loss_on: Any, learned: list[str] | None
) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model), max_length=99, loss_on=loss_on)
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    rendered = renderer.render(Example([{"role": r, "content": c} for r, c in turns]))
    spans = [rendered.text[span.start : span.end] for span in rendered.learned]
    assert spans == (learned or [rendered.text])


def test_a_template_that_cannot_be_marked_is_learned_whole_or_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (  # only the last answer keeps its mark
        "{% for m in messages %}{{ m['content'] }}{% if loop.last %}!{% endif %}{% endfor %}"
    )
    turns = Example([USER, ASSISTANT, USER, ASSISTANT])
    rendered = Renderer(tokenizer, max_length=99, loss_on="auto").render(turns)
    assert [(span.start, span.end) for span in rendered.learned] == [(0, len(rendered.text))]
    with pytest.raises(DataError, match="renders a turn differently"):
        Renderer(tokenizer, max_length=99, loss_on="assistant").render(turns)


def test_labels_are_those_that_trl_makes(tiny_model: Path, config: MakeConfig) -> None:
    import trl

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    renderer = Renderer(tokenizer, max_length=16, loss_on="auto")
    examples = [
        Example([{"role": "user", "content": r["prompt"]},
                 {"role": "assistant", "content": r["completion"]}], 1)
        for r in sums(20)
    ]  # fmt: skip
    ours = renderer.tokenize([renderer.render(example) for example in examples])
    rows = [{"prompt": e.messages[:1], "completion": e.messages[1:]} for e in examples]
    theirs = trl.SFTTrainer(
        model=str(tiny_model),
        args=trl.SFTConfig(
            config().output_dir, max_length=16, use_cpu=True, bf16=False, report_to="none"
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train_dataset
    kept = [tokens for tokens in ours if any(label != IGNORED for label in tokens.labels)]
    assert [tokens.input_ids for tokens in kept] == theirs["input_ids"][:]
    assert [tokens.labels for tokens in kept] == theirs["labels"][:]


def test_a_model_without_chat_template_gets_the_plain_form(
    tiny_model: Path, config: MakeConfig, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(bare)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(bare)
    trainer = TRLSFTTrainer(config(model={"name": str(bare)}))
    trainer.setup_data()
    assert trainer.data is not None
    row = trainer.data.train[0]
    whole = trainer.tokenizer.decode(row["input_ids"])
    learned = trainer.tokenizer.decode([t for t in row["labels"] if t != IGNORED])
    prompt, completion = sums(1)[0].values()
    assert whole == f"User: {prompt}\n\nAssistant: {completion}<|im_end|>"
    assert learned.strip() == f"{completion}<|im_end|>"
    assert isinstance(trainer.predict("Hi", max_new_tokens=3), str)
    saved = AutoTokenizer.from_pretrained(trainer.save_model())
    assert saved.chat_template == PLAIN_CHAT_TEMPLATE


def test_the_plain_form_begins_as_the_tokenizer_begins_a_text(
    config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.bos_token = "<|endoftext|>"
    first = {"single": "<|endoftext|> $A", "pair": "<|endoftext|> $A $B"}
    ids = [("<|endoftext|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**first, special_tokens=ids)
    tokenizer.save_pretrained(tmp_path / "begun")
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path / "begun")
    trainer = TRLSFTTrainer(config(model={"name": str(tmp_path / "begun")}))
    trainer.setup_data()
    assert trainer.data is not None
    whole = trainer.tokenizer.decode(trainer.data.train[0]["input_ids"])
    assert whole.startswith("<|endoftext|>User: What is")


def test_mixing_follows_the_weights_and_repeats_no_row_before_its_source_is_used_up() -> None:
    chosen = draw([1000, 100, 100], [2, 1, 1], seed=3)
    assert chosen == draw([1000, 100, 100], [2, 1, 1], seed=3)
    assert chosen != draw([1000, 100, 100], [2, 1, 1], seed=4)
    assert len(chosen) == 1200
    first = Counter(0 if row < 1000 else 1 for row in chosen)
    assert first[0] / 1200 == pytest.approx(0.5, abs=0.05)
    times = Counter(chosen)
    assert max(times[row] for row in range(1000)) == 1
    small = [times[row] for row in range(1000, 1100)]
    assert max(small) - min(small) <= 1


def test_two_sources_of_different_shape_are_mixed_and_their_shares_recorded(
    config: MakeConfig, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alpaca = [{"instruction": "Say", "input": "hi", "output": "hi " * 10}] * 50
    other = write_jsonl(tmp_path / "alpaca.jsonl", alpaca)
    settings = config(datasets=[{"name": str(tiny_data), "weight": 3}, {"name": str(other)}])
    trainer = TRLSFTTrainer(settings)
    with caplog.at_level("INFO"):
        trainer.setup_data()
    assert trainer.data is not None
    sums_part, alpaca_part = trainer.data.sources
    assert len(trainer.data.train) == 96 + 50
    assert sums_part.share_of_rows == pytest.approx(0.75, abs=0.1)
    assert sums_part.share_of_rows + alpaca_part.share_of_rows == pytest.approx(1)
    assert alpaca_part.share_of_tokens > alpaca_part.share_of_rows
    assert "is read as alpaca (prompt = instruction, completion = output, input)" in caplog.text
    assert "«It is" in caplog.text  # a sample with what it learns


def test_rows_that_teach_nothing_are_dropped_and_counted(
    config: MakeConfig, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "short", "completion": "yes"},
        {"prompt": "short", "completion": "yes " * 100},
        {"prompt": "long " * 100, "completion": "beyond the end"},
        {"prompt": "empty", "completion": ""},
        {"prompt": "none", "completion": None},
    ]
    name = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    trainer = TRLSFTTrainer(config(datasets=[{"name": name}], model={"max_length": 40}))
    trainer.setup_data()
    assert trainer.data is not None
    [counts] = trainer.data.sources
    assert (counts.kept, counts.truncated, counts.dropped) == (2, 1, 3)


def test_a_share_is_held_out_by_seed_and_never_trained_on(config: MakeConfig) -> None:
    def halves(seed: int) -> tuple[list[Any], list[Any]]:
        trainer = TRLSFTTrainer(config(evaluation={"split_ratio": 0.5}, train={"seed": seed}))
        trainer.setup_data()
        assert trainer.data is not None
        assert trainer.data.evaluation is not None
        return trainer.data.train["input_ids"][:], trainer.data.evaluation["input_ids"][:]

    train, held_out = halves(1)
    assert len(train) == len(held_out) == 48
    assert halves(1) == (train, held_out)
    assert halves(2) != (train, held_out)
    every = Counter(map(tuple, train + held_out))
    again = halves(2)
    assert Counter(map(tuple, again[0] + again[1])) == every


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.txt"]
)
def test_files_of_every_format_are_read(tmp_path: Path, name: str) -> None:
    rows = Dataset.from_list([{"text": "one"}, {"text": "two"}])
    path = tmp_path / name
    match path.suffix:
        case ".jsonl":
            rows.to_json(path)
        case ".json":
            path.write_text(json.dumps(rows.to_list()))
        case ".csv":
            rows.to_csv(path)
        case ".parquet":
            rows.to_parquet(path)
        case _:
            path.write_text("one\ntwo\n")
    assert read(DatasetConfig(name=str(path)), "datasets[0]").rows["text"][:] == ["one", "two"]
    part = DatasetConfig(name=str(path), split="test[:1]")
    assert read(part, "datasets[0]").rows["text"][:] == ["one"]


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("rows.md", "train", "files that can be read end in .jsonl"),
        ("empty", "train", "the folder holds no file ending in"),
        ("folder", "validation", 'Unknown split "validation"'),
        ("empty.jsonl", "train", "the file is empty"),
        ("folder/train.jsonl", "train[:0]", "corresponds to no data"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, split: str, sentence: str) -> None:
    (tmp_path / "rows.md").write_text("# rows")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", sums(2))
    with pytest.raises(DataError) as error:
        read(DatasetConfig(name=str(tmp_path / name), split=split), "datasets[0]")
    assert sentence in str(error.value)
    assert str(error.value).startswith("datasets[0].name")


def test_a_cell_of_no_use_is_told_with_its_row(config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"messages": [USER, ASSISTANT]}, {"messages": [USER]}]
    name = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    settings = config(datasets=[{"name": name}], train={"loss_on": "assistant"})
    with pytest.raises(DataError, match=r"rows.jsonl', row 1: .*no assistant's turn"):
        TRLSFTTrainer(settings).setup_data()


def test_a_stream_trains_for_its_steps_and_resumes_exactly(
    config: MakeConfig, tiny_data: Path
) -> None:
    streams = [{"name": str(tiny_data), "streaming": True}, {"name": str(tiny_data / "test.jsonl")}]
    settings = config(datasets=streams, checkpoint={"every_steps": 5})
    TRLSFTTrainer(settings).train()
    whole = losses(Path(settings.output_dir))
    assert len(whole) == 10
    trainer = TRLSFTTrainer(settings)
    trainer.load_checkpoint(Path(settings.output_dir) / "checkpoint-5")
    trainer.train()
    assert losses(Path(settings.output_dir)) == whole


def test_tokenised_rows_come_from_the_cache_until_something_they_depend_on_changes(
    config: MakeConfig,
) -> None:
    def written(**sections: Any) -> list[tuple[str, int]]:
        trainer = TRLSFTTrainer(config(**sections))
        trainer.setup_data()
        assert trainer.data is not None
        files = [Path(file["filename"]) for file in trainer.data.train.cache_files]
        return [(file.name, file.stat().st_mtime_ns) for file in files]

    first = written()
    assert written() == first
    assert written(model={"max_length": 50}) != first
    assert written(train={"loss_on": "all"}) != first
