"""From rows of many shapes to token ids: what is recognised, learned, mixed, dropped, counted."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.config.data import ColumnsConfig, DatasetConfig
from aligntune.core.errors import ConfigError, DataError
from aligntune.data.mixing import draw
from aligntune.data.pipeline import Encoded, load_one
from aligntune.data.rendering import IGNORED, PLAIN_CHAT_TEMPLATE, Renderer
from aligntune.data.shapes import SUPERVISED, Example, recognise
from aligntune.data.sources import read
from aligntune.data.supervised import SupervisedEncoder
from aligntune.training.context import RunContext
from aligntune.training.loop import place_in_stream
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
        (  # a column of 4 and 0.5
            {"prompt": "q", "completion": 4.0},
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


@pytest.mark.parametrize("role", ["Assistant", "model", "gpt"])
def test_whoever_answers_is_learned_by_whatever_name(role: str) -> None:
    row = {"messages": [USER, {"role": role, "content": "a"}]}
    example = recognise(row, None, SUPERVISED, "datasets[0]").example(row)
    assert example == Example([USER, ASSISTANT])


def test_of_questions_alone_nothing_is_learned(tiny_model: Path) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model), max_length=99, loss_on="auto")
    assert renderer.render(Example([USER])).learned == []
    with pytest.raises(DataError, match="the roles are agent, user; rename the one that answers"):
        renderer.render(Example([USER, {"role": "agent", "content": "a"}]))


def test_a_truth_value_is_no_text() -> None:
    with pytest.raises(DataError, match="a text is needed, got True"):
        recognise(["text"], None, SUPERVISED, "datasets[0]").example({"text": True})


@pytest.mark.parametrize("call", ["tool_calls", "function_call"])
def test_a_call_of_a_tool_is_no_empty_answer(call: str) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": None, call: [{"name": "get"}]}]}
    with pytest.raises(DataError, match="calls of tools are not learned; write"):
        recognise(row, None, SUPERVISED, "datasets[0]").example(row)


def test_a_conversation_that_the_template_refuses_is_told_with_its_row(
    config: MakeConfig, tmp_path: Path
) -> None:
    template = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}q:a"
    rows = [{"messages": [USER, ASSISTANT]}, {"messages": [USER, ASSISTANT] * 2}]
    name = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    settings = config(datasets=[{"name": name}], model={"chat_template": template})
    with pytest.raises(DataError, match=r"row 1: the chat template refuses .*: too long"):
        TRLSFTTrainer(settings).setup_data()


def test_a_chat_template_that_is_no_jinja_is_a_sentence(config: MakeConfig) -> None:
    settings = config(model={"chat_template": "{% for m in messages %}{{ m['content'] }}"})
    with pytest.raises(ConfigError, match=r"^model\.chatTemplate: line 1 is no Jinja"):
        TRLSFTTrainer(settings).setup_data()


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


def test_the_row_that_is_shown_is_the_first_that_is_learned(
    config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": ""}, {"text": "once upon"}]))
    with caplog.at_level("INFO"):
        TRLSFTTrainer(config(datasets=[{"name": name}])).setup_data()
    assert "«once upon<|im_end|>»" in caplog.text


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


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "folder"])
def test_texts_in_json_that_look_like_dates_stay_texts(
    tmp_path: Path, name: str, streaming: bool
) -> None:
    rows = [
        {"prompt": "tomorrow?", "answer": "2024-05-01", "seen": {"at": ["2024-05-01 10:00:00"]}},
        {"prompt": "today?", "answer": "2024-04-30", "seen": {"at": []}},
    ]
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", rows)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    source = DatasetConfig(name=str(tmp_path / name), streaming=streaming)
    assert list(read(source, "datasets[0]").rows) == rows


@pytest.mark.parametrize("name", ["train.csv", "."])
def test_words_in_csv_that_mean_nothing_to_pandas_stay_words(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,None\nb,NA\nc,null\nd,\n")
    read_rows = read(DatasetConfig(name=str(tmp_path / name)), "datasets[0]").rows
    assert read_rows["label"][:] == ["None", "NA", "null", None]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["train.csv", "."])
def test_cells_of_csv_are_read_as_they_are_written(
    tmp_path: Path, name: str, streaming: bool
) -> None:
    row = {"flag": "true", "zip": "00501", "price": "1.50", "size": "1e5", "day": "2024-01-05"}
    (tmp_path / "train.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n,,,,\n")
    source = DatasetConfig(name=str(tmp_path / name), streaming=streaming)
    assert list(read(source, "datasets[0]").rows) == [row, dict.fromkeys(row)]


def test_classes_that_a_folder_of_csv_declares_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - {name: text, dtype: string}\n"
        "  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}\n---\n"
    )
    rows = read(DatasetConfig(name=str(tmp_path)), "datasets[0]").rows
    assert rows["label"][:] == ["bad", "good"]


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("header.csv", "train", 'Instruction "train" corresponds to no data'),
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
    (tmp_path / "header.csv").write_text("text,label\n")
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


@pytest.mark.parametrize(
    ("source", "evaluation"),
    [
        ({"max_samples": 60}, {}),
        ({}, {"split_ratio": 0.5}),
        ({"max_samples": 60}, {"split_ratio": 0.5}),
    ],
)
def test_a_row_is_told_by_its_place_in_the_file(
    config: MakeConfig, tmp_path: Path, source: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    trainer = TRLSFTTrainer(
        config(
            datasets=[{"name": row_30_is_unanswered(tmp_path)} | source],
            evaluation=evaluation,
            train={"loss_on": "assistant"},
        )
    )
    with pytest.raises(DataError, match=r"rows.jsonl', row 30: .*no assistant's turn"):
        trainer.setup_data()


def test_a_row_of_a_shuffled_stream_is_told_without_a_place(
    config: MakeConfig, tmp_path: Path
) -> None:
    source = {"name": row_30_is_unanswered(tmp_path), "streaming": True}
    trainer = TRLSFTTrainer(config(datasets=[source], train={"loss_on": "assistant"}))
    trainer.setup_data()
    assert trainer.data is not None
    with pytest.raises(DataError, match=r"rows.jsonl', a row: .*no assistant's turn"):
        list(trainer.data.train)


def row_30_is_unanswered(folder: Path) -> str:
    """The path of a file of 60 conversations."""
    rows = [{"messages": [USER, ASSISTANT]}] * 30 + [{"messages": [USER]}]
    return str(write_jsonl(folder / "rows.jsonl", rows + rows[:29]))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_folders_config_is_the_one_that_is_read(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        rows = Dataset.from_list([{"text": f"from {name}"}])
        file = tmp_path / f"{name}.{ending}"
        rows.to_csv(file) if ending == "csv" else rows.to_json(file)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        f"- {{config_name: a, data_files: a.{ending}, default: true}}\n"
        f"- {{config_name: b, data_files: b.{ending}}}\n"
        "---\n"
    )

    def texts(name: Path, config: str | None) -> list[str]:
        return list(read(DatasetConfig(name=str(name), config=config), "datasets[0]").rows["text"])

    assert texts(tmp_path, None) == ["from a"]
    assert texts(tmp_path, "b") == ["from b"]
    with pytest.raises(DataError, match=r"^datasets\[0\].name .*'c' not found. Available: \['a'"):
        texts(tmp_path, "c")
    with pytest.raises(DataError, match="a file has no config 'b'; remove config"):
        texts(tmp_path / f"b.{ending}", "b")


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


def test_a_stream_resumes_exactly_in_a_later_pass(config: MakeConfig, tmp_path: Path) -> None:
    name = str(write_jsonl(tmp_path / "rows.jsonl", sums(22)))  # 6 batches, the last of them short
    settings = config(
        datasets=[{"name": name, "streaming": True}],
        train={"max_steps": 9, "per_device_batch_size": 2, "gradient_accumulation_steps": 2},
        checkpoint={"every_steps": 7},
    )
    folder = Path(settings.output_dir)
    TRLSFTTrainer(settings).train()
    whole = losses(folder)
    shutil.rmtree(folder / "checkpoint-9")
    result = TRLSFTTrainer(settings).train()
    assert losses(folder) == whole
    assert result.epoch > 1


@pytest.mark.parametrize(
    ("epoch", "place"),
    [(0.0, (0, 0)), (3 / 14, (0, 3)), (1.0, (0, 14)), (1 + 4 / 14, (1, 4)), (6 + 1 / 14, (6, 1))],
)
def test_a_place_in_a_stream_is_known_from_the_passes(epoch: float, place: tuple[int, int]) -> None:
    assert place_in_stream(epoch, max_steps=14) == place


def test_what_is_read_of_a_stream_up_to_the_checkpoint_is_loaded_and_no_hang(
    config: MakeConfig, tiny_data: Path
) -> None:
    told: list[Any] = []
    settings = config(
        datasets=[{"name": str(tiny_data), "streaming": True}],
        train={"max_steps": 2},
        checkpoint={"every_steps": 1},
    )

    def after_begin() -> str:
        told.clear()
        TRLSFTTrainer(settings, RunContext(report=told.append)).train()
        activities = [snapshot.progress.activity for snapshot in told]
        return activities[activities.index("training") + 1]

    assert after_begin() == "training"
    shutil.rmtree(Path(settings.output_dir) / "checkpoint-2")
    assert after_begin() == "loading"


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


def test_processes_that_begin_together_tokenise_rows_once(
    config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    data = str(write_jsonl(tmp_path / "rows.jsonl", sums(50)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoded: list[int] = []

    class Counting(SupervisedEncoder):
        def encode(self, examples: Sequence[Example]) -> Sequence[Encoded | None]:
            encoded.append(len(examples))
            return super().encode(examples)

    def rows(_: int) -> int:
        encoder = Counting(tokenizer, max_length=50, loss_on="auto")
        begun.wait()
        return len(load_one(data, config(), encoder))

    begun = threading.Barrier(3)
    with ThreadPoolExecutor(3) as together:
        assert list(together.map(rows, range(3))) == [50] * 3
    assert encoded == [50]


def test_texts_end_with_the_end_token_also_after_it_was_corrected(
    config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    name = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": "once upon a time"}]))
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    for token in ("<|im_end|>", "<|endoftext|>"):
        tokenizer.eos_token = token
        encoder = SupervisedEncoder(tokenizer, max_length=50, loss_on="auto")
        [row] = load_one(name, config(), encoder)
        assert tokenizer.decode(row["input_ids"]).endswith(token)
