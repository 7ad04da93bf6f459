"""A reward function of a user's own, which gets a process stopped in the middle of a rollout."""

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

from aligntune.rewards.scoring import Batch

_calls = itertools.count(1)


def stopping(marker: Path) -> dict[str, Any]:
    """The entry of a config that has the second process stopped in its second rollout."""
    params = {"marker": str(marker), "rank": "1", "call": 2}
    return {"name": f"{__name__}:vowels", "params": params}


def vowels(batch: Batch, marker: str = "", call: int = 2, rank: str = "0") -> list[float]:
    """The share of vowels in a completion.

    The first process that makes its `call`th call as `rank` sends itself SIGTERM, once: `marker` is
    a file that says that it has happened.
    """
    here = os.environ.get("RANK", "0") == rank
    if marker and here and next(_calls) == call and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return [
        sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in batch.completions
    ]


def slow(batch: Batch) -> list[float]:
    """Takes longer than a test would wait."""
    time.sleep(30)  # noqa: TID251 - what is to be interrupted
    return [0.0] * len(batch.completions)
