"""Rewards for the right answer, as the column `answer` has it."""

import json
import math
import re

from aligntune.data.shapes import as_text
from aligntune.rewards.scoring import Batch

NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)[-+]?"
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\.)\.\d+)"
    r"(?:[eE][-+]?\d+)?"
)
"""A number in running text; thousands may be set off by commas."""
MINUS = "\N{MINUS SIGN}"
"""What a negative number begins with in typeset text."""


def answers(batch: Batch) -> list[str | None]:
    """The reference answers as text; None where a row has none."""
    given = batch.columns.get("answer", [None] * len(batch.completions))
    return [None if answer is None else _written(answer) for answer in given]


def _written(answer: object) -> str:
    """An answer as a model would write it: no 5.0 for 5, and JSON's true, not Python's."""
    if isinstance(answer, bool):
        return json.dumps(answer)
    return as_text(answer) if isinstance(answer, float) else str(answer)


def exact_match(batch: Batch, *, ignore_case: bool = False) -> list[float | None]:
    """1 where the completion is the answer, else 0; spaces around both do not count.

    Args:
        batch: What is scored.
        ignore_case: Whether `Paris` and `paris` are the same.
    """

    def plain(text: str) -> str:
        return text.strip().casefold() if ignore_case else text.strip()

    return [
        None if answer is None else float(plain(completion) == plain(answer))
        for completion, answer in zip(batch.completions, answers(batch), strict=True)
    ]


def numeric_answer(batch: Batch, *, tolerance: float = 1e-6) -> list[float | None]:
    """1 where the last number of the completion is the last number of the answer, else 0.

    Does not apply where the answer has no number.

    Args:
        batch: What is scored.
        tolerance: How far the two may lie apart, absolutely or as a share of the larger.
    """

    def right(completion: str, answer: float) -> bool:
        said = last_number(completion)
        return said is not None and math.isclose(said, answer, rel_tol=tolerance, abs_tol=tolerance)

    expected = [None if answer is None else last_number(answer) for answer in answers(batch)]
    return [
        None if answer is None else float(right(completion, answer))
        for completion, answer in zip(batch.completions, expected, strict=True)
    ]


def last_number(text: str) -> float | None:
    """The last number in `text`; None where it has none."""
    found = NUMBER.findall(text.replace(MINUS, "-"))
    return float(found[-1].replace(",", "")) if found else None
