"""Rewards for how a completion is written, whatever it says."""

import json
import re
from collections.abc import Sequence

from aligntune.core.errors import ConfigError
from aligntune.rewards.scoring import Batch

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
"""A Markdown code block, as chat models wrap their JSON in."""


def regex(batch: Batch, *, pattern: str, whole: bool = False) -> list[float]:
    """1 where the completion has a match of `pattern`, else 0.

    Args:
        batch: What is scored.
        pattern: A regular expression of Python's `re`; `.` matches newlines too.
        whole: The whole completion must match, without the spaces around it.

    Raises:
        ConfigError: `pattern` is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r} is no regular expression: {error}") from error
    matches = compiled.fullmatch if whole else compiled.search
    return [float(bool(matches(completion.strip()))) for completion in batch.completions]


def length(batch: Batch, *, shortest: int = 1, longest: int = 1000) -> list[float]:
    """1 where the completion has from `shortest` to `longest` characters, less the further off.

    Outside it is the ratio of the length to the bound that is missed: 0.5 at twice `longest`.

    Args:
        batch: What is scored.
        shortest: Characters.
        longest: Characters.

    Raises:
        ConfigError: The bounds are below 1, or the wrong way round.
    """
    if not 1 <= shortest <= longest:
        raise ConfigError(f"1 <= shortest <= longest is needed, got {shortest} and {longest}")
    lengths = [len(completion.strip()) for completion in batch.completions]
    return [min(1.0, size / shortest, longest / max(size, 1)) for size in lengths]


def repetition(batch: Batch, *, words: int = 3) -> list[float]:
    """Minus the share of word n-grams that occurred before: 0 for no repetition, towards -1.

    Args:
        batch: What is scored.
        words: Words of an n-gram.

    Raises:
        ConfigError: `words` is below 1.
    """
    if words < 1:
        raise ConfigError(f"words must be 1 or more, got {words}")
    return [-_repeated(completion.lower().split(), words) for completion in batch.completions]


def _repeated(text: Sequence[str], size: int) -> float:
    grams = [tuple(text[start : start + size]) for start in range(len(text) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def json_valid(batch: Batch, *, keys: Sequence[str] = ()) -> list[float]:
    """1 where the completion is a JSON object or list, in a code block or bare, else 0.

    Args:
        batch: What is scored.
        keys: What an object must have; with keys, a list is not enough.
    """

    def valid(completion: str) -> bool:
        fenced = FENCED.search(completion)
        try:
            document = json.loads(fenced[1] if fenced else completion)
        except (ValueError, RecursionError):
            return False
        if keys:
            return isinstance(document, dict) and document.keys() >= set(keys)
        return isinstance(document, dict | list)

    return [float(valid(completion)) for completion in batch.completions]
