"""From rows of many shapes to pairs of token ids: what is recognised, cut, dropped, shown."""

from typing import Any

import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from aligntune.core.config.data import ColumnsConfig
from aligntune.core.errors import DataError
from aligntune.data.preferences import (
    PREFERENCES,
    ComparisonEncoder,
    Preference,
    PreferenceEncoder,
)
from aligntune.data.shapes import recognise
from tests.trainers.tiny import comparisons

Q = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}
B = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}
PAIR = Preference([Q], [A], [B])


@pytest.fixture
def tokenizer(tiny_model: Any) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("row", "shape", "example"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "prompt-chosen-rejected", PAIR),
        ({"prompt": "q", "chosen": "q a", "rejected": "q b"}, "prompt-chosen-rejected", PAIR),
        (
            {"prompt": "q", "chosen": "q a", "rejected": "b"},  # one alone is no repetition
            "prompt-chosen-rejected",
            Preference([Q], [{"role": "assistant", "content": "q a"}], [B]),
        ),
        (  # they begin with the prompt's letters, and do not repeat it
            {"prompt": "q", "chosen": "q! a", "rejected": "q."},
            "prompt-chosen-rejected",
            Preference(
                [Q],
                [{"role": "assistant", "content": "q! a"}],
                [{"role": "assistant", "content": "q."}],
            ),
        ),
        (
            {"prompt": "q\n", "chosen": "q\na", "rejected": "q\nb"},
            "prompt-chosen-rejected",
            PAIR._replace(prompt=[{"role": "user", "content": "q\n"}]),
        ),
        ({"prompt": [Q], "chosen": [A], "rejected": [B]}, "prompt-chosen-rejected", PAIR),
        ({"prompt": [Q], "chosen": "a", "rejected": "b"}, "prompt-chosen-rejected", PAIR),
        (
            {"prompt": "q", "chosen": [A, Q, A], "rejected": [A, Q, B]},
            "prompt-chosen-rejected",
            Preference([Q], [A, Q, A], [A, Q, B]),
        ),
        (
            {"prompt": "q", "chosen": [SYSTEM, Q, A, Q, A], "rejected": [SYSTEM, Q, A, Q, B]},
            "prompt-chosen-rejected",
            Preference([SYSTEM, Q], [A, Q, A], [A, Q, B]),
        ),
        (  # UltraFeedback
            {
                "prompt": "q",
                "prompt_id": "1",
                "chosen": [Q, A],
                "rejected": [Q, B],
                "messages": [Q, A],
                "score_chosen": 7.0,
                "score_rejected": 6.0,
            },
            "prompt-chosen-rejected",
            PAIR,
        ),
        ({"chosen": [Q, A], "rejected": [Q, B]}, "dialogues", PAIR),
        (
            {"chosen": [Q, A, Q, A], "rejected": [Q, A, Q, B, Q, A]},
            "dialogues",
            Preference([Q, A, Q], [A], [B, Q, A]),
        ),
        (
            {
                "chosen": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                "rejected": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}],
            },
            "dialogues",
            PAIR,
        ),
        (  # hh-rlhf
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant: a",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant: b",
            },
            "dialogues",
            Preference([Q, A, Q], [A], [B]),
        ),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nb: Human: is no turn",
                "rejected": "\n\nHuman: q\n\nAssistant: b",
            },
            "dialogues",
            Preference([Q], [{"role": "assistant", "content": "a\n\nb: Human: is no turn"}], [B]),
        ),
        (
            {"chosen": "s\n\nHuman: q\n\nAssistant:a", "rejected": "s\n\nHuman: q\n\nAssistant:b"},
            "dialogues",
            Preference([{"role": "user", "content": "s"}, Q], [A], [B]),
        ),
    ],
)
def test_shapes_are_recognised_by_their_columns(
    row: dict[str, Any], shape: str, example: Preference
) -> None:
    recognised = recognise(row, None, PREFERENCES, "datasets[0]")
    assert recognised.shape.name == shape
    assert recognised.example(row) == example


def test_columns_override_recognition() -> None:
    row = {"question": "q", "chosen": "x", "rejected": "y", "better": "a", "worse": "b"}
    columns = ColumnsConfig(prompt="question", chosen="better", rejected="worse")
    assert recognise(row, columns, PREFERENCES, "datasets[0]").example(row) == PAIR


def test_answers_without_a_prompt_are_refused_with_the_remedy() -> None:
    row = {"question": "q", "chosen": "a", "rejected": "b"}
    recognised = recognise(row, None, PREFERENCES, "datasets[0]")
    with pytest.raises(DataError, match=r"got 'a'; name the prompt's column with columns"):
        recognised.example(row)


@pytest.mark.parametrize(
    "pair",
    [
        PAIR._replace(chosen=[B]),
        PAIR._replace(rejected=[{"role": "assistant", "content": " "}]),
        PAIR._replace(prompt=[]),
        PAIR._replace(prompt=[{"role": "user", "content": "long " * 40}]),
        PAIR._replace(
            chosen=[{"role": "assistant", "content": "long " * 40 + "a"}],
            rejected=[{"role": "assistant", "content": "long " * 40 + "b"}],
        ),
    ],
    ids=["twice the same", "no answer", "no prompt", "all beyond the end", "the same when cut"],
)
def test_pairs_that_teach_nothing_are_dropped(tokenizer: Any, pair: Preference) -> None:
    assert PreferenceEncoder(tokenizer, max_length=40).encode([pair, PAIR])[0] is None
    assert ComparisonEncoder(tokenizer, max_length=40).encode([pair, PAIR])[0] is None


def test_token_ids_are_those_that_trl_makes(tokenizer: Any, tiny_model: Any, tmp_path: Any) -> None:
    rows = [
        *comparisons(20),
        {"prompt": "cut", "chosen": "yes, " * 20, "rejected": "no"},
        {"prompt": "dropped " * 20, "chosen": "yes", "rejected": "no"},
    ]
    examples = [recognise(row, None, PREFERENCES, "").example(row) for row in rows]
    conversations = Dataset.from_list([example._asdict() for example in examples])
    arguments = {"use_cpu": True, "bf16": False, "report_to": "none", "max_length": 40}
    dpo = trl.DPOTrainer(
        model=str(tiny_model),
        args=trl.DPOConfig(str(tmp_path), **arguments),
        train_dataset=conversations,
        processing_class=tokenizer,
    )
    ours = [one for one in PreferenceEncoder(tokenizer, max_length=40).encode(examples) if one]
    theirs = dpo.train_dataset
    batch = dpo.data_collator(list(theirs))
    assert len(ours) == len(theirs) == 21
    assert [one.truncated for one in ours] == [False] * 20 + [True]
    for name, sequences in (("chosen_ids", batch["input_ids"][:21]),
                            ("rejected_ids", batch["input_ids"][21:])):  # fmt: skip
        assert [one.cells["prompt_ids"] for one in ours] == theirs["prompt_ids"][:]
        for one, sequence in zip(ours, sequences.tolist(), strict=True):
            whole = one.cells["prompt_ids"] + one.cells[name]
            assert sequence == whole + [tokenizer.pad_token_id] * (len(sequence) - len(whole))

    reward = trl.RewardTrainer(
        model=str(tiny_model),
        args=trl.RewardConfig(str(tmp_path), **arguments),
        train_dataset=conversations,
        processing_class=tokenizer,
    ).train_dataset
    compared = [one for one in ComparisonEncoder(tokenizer, max_length=40).encode(examples) if one]
    assert len(compared) == 20
    for name in ComparisonEncoder.columns:
        assert [one.cells[name] for one in compared] == reward[name][:]


def test_a_template_that_renders_a_prompt_differently_leaves_the_rest_to_the_answers(
    tokenizer: Any,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
        "{% if add_generation_prompt %}<think></think>{% endif %}"
    )
    [encoded] = PreferenceEncoder(tokenizer, max_length=40).encode([PAIR])
    assert encoded is not None
    assert tokenizer.decode(encoded.cells["prompt_ids"]) == "<q><"
    assert tokenizer.decode(encoded.cells["chosen_ids"]) == "a>"


def test_a_conversation_that_the_template_refuses_is_a_sentence(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="refuses the conversation: roles must alternate"):
        PreferenceEncoder(tokenizer, max_length=40).encode([PAIR])


def test_a_shown_pair_marks_what_is_learned(tokenizer: Any) -> None:
    prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert PreferenceEncoder(tokenizer, max_length=40).show(PAIR) == (
        f"{prompt}«a<|im_end|>\n»\nand as the worse answer:\n«b<|im_end|>\n»"
    )
    assert ComparisonEncoder(tokenizer, max_length=40).show(PAIR) == (
        f"«{prompt}a<|im_end|>\n»\nis better than\n«{prompt}b<|im_end|>\n»"
    )
