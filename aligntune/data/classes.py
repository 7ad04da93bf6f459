"""What rows become for text classification: token ids and the number of a class."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from aligntune.core.errors import DataError
from aligntune.core.sft.config import MOST_CLASSES, SFTConfig
from aligntune.data.pipeline import Encoded, open_sources
from aligntune.data.shapes import Ranks, Row, Shape, as_text

FEW = 20
"""Labels that a message lists."""


class Labelled(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str
    """Empty where the row has none."""


class Tokens(NamedTuple):
    """A text as the model reads it."""

    input_ids: list[int]
    truncated: bool
    """The text was longer, and has lost its end."""


def as_label(value: object) -> str:
    """The class in a cell, by name; empty where there is none.

    Raises:
        DataError: The cell holds something else than one name or number.
    """
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, bool):
        return json.dumps(value)
    if value is None or isinstance(value, str | int | float):
        return as_text(value).strip()
    raise DataError(
        f"one label per row is needed, a name or a number, got {value!r:.60}; rows with several"
        " labels cannot be trained"
    )


def _labelled(row: Row) -> Labelled:
    return Labelled(as_text(row["text"]), as_label(row["label"]))


def _shape(text: str, label: str) -> Shape[Labelled]:
    return Shape(f"{text}-{label}", {"text": text, "label": label}, {}, _labelled)


CLASSES: Ranks[Labelled] = (
    (_shape("text", "label_text"),),  # beside a `label` that holds numbers
    (
        _shape("text", "label"),
        _shape("sentence", "label"),
        _shape("content", "label"),
    ),
    (
        _shape("text", "intent"),
        _shape("text", "category"),
        _shape("text", "topic"),
        _shape("text", "sentiment"),
    ),
)
"""For text classification, from the top. Data with several shapes is read by the first."""


def discover(config: SFTConfig) -> list[str]:
    """The labels in all sources of a config, those to evaluate on included.

    Numbers are sorted by value, names by letter; that order is the order of the classes' ids.

    Raises:
        DataError: A source cannot be read, a row has a label that is none, or there are fewer than
            two labels or more than `MOST_CLASSES`.
    """
    training, evaluation = open_sources(config, CLASSES)
    labels: set[str] = set()
    for source in (*training, *evaluation):
        column = source.recognised.columns["label"]
        for index, value in enumerate(source.rows[column]):
            with source.blaming(index):
                labels.add(as_label(value))
        if len(labels) > MOST_CLASSES:
            raise DataError(
                f"{source.place} {source.name!r}: column {column!r} has more than {MOST_CLASSES}"
                " different values; name the column of the classes with columns.label"
            )
    labels.discard("")
    if len(labels) < 2:  # noqa: PLR2004 - there is nothing to tell one class from
        found = f"only one label, {labels.pop()!r}" if labels else "no label"
        raise DataError(
            f"datasets: the rows have {found}; at least two are needed, so check columns.label"
        )
    return sorted(labels, key=_by_value)


def _by_value(label: str) -> tuple[int, int, str]:
    """Whole numbers first, by value; then names."""
    digits = label.removeprefix("-")
    if digits.isascii() and digits.isdecimal():
        return (0, int(label), label)
    return (1, 0, label)


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Tokens]:
    """Texts as token ids, with the tokenizer's own special tokens; the same for every use."""
    batch = tokenizer(
        list(texts), truncation=True, max_length=max_length, return_attention_mask=False
    )
    return [
        Tokens(ids, truncated=bool(encoding.overflowing))
        for ids, encoding in zip(batch["input_ids"], batch.encodings, strict=True)
    ]


class ClassEncoder:
    """Tokenises texts and numbers their classes."""

    ranks = CLASSES
    columns = ("input_ids", "labels")
    limit = "model.maxLength"

    def __init__(self, tokenizer: Any, *, labels: Sequence[str], max_length: int) -> None:
        """Use `tokenizer`, a fast transformers tokenizer; a label's place is its class's id."""
        self._tokenizer = tokenizer
        self._ids = {label: number for number, label in enumerate(labels)}
        self._max_length = max_length
        self.key = (tokenizer.backend_tokenizer.to_str(), list(labels), max_length)

    def encode(self, examples: Sequence[Labelled]) -> Sequence[Encoded | None]:
        """Token ids and the class's id; None where text or label is missing.

        Raises:
            DataError: A label is not among those that are known.
        """
        kept = [index for index, (text, label) in enumerate(examples) if text.strip() and label]
        encoded: list[Encoded | None] = [None] * len(examples)
        if not kept:
            return encoded
        texts = [examples[index].text for index in kept]
        for index, tokens in zip(
            kept, tokenize(self._tokenizer, texts, self._max_length), strict=True
        ):
            cells = {"input_ids": tokens.input_ids, "labels": self._id(examples[index].label)}
            encoded[index] = Encoded(cells, len(tokens.input_ids), tokens.truncated)
        return encoded

    def show(self, example: Labelled) -> str:
        """One text as the model reads it, and its label between «guillemets»."""
        [tokens] = tokenize(self._tokenizer, [example.text], self._max_length)
        return f"{self._tokenizer.decode(tokens.input_ids)} «{example.label}»"

    def _id(self, label: str) -> int:
        if label not in self._ids:
            known = ", ".join(list(self._ids)[:FEW]) + (" ..." if len(self._ids) > FEW else "")
            raise DataError(
                f"label {label!r} is none of the {len(self._ids)} that are known ({known}); add it"
                " to classification.labels or correct the row"
            )
        return self._ids[label]
