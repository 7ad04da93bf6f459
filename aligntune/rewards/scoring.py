"""Scoring completions: several functions, one weighted sum, and no result that is not a number."""

import math
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch

from aligntune.core.conversation import Message
from aligntune.core.errors import ConfigError, RunError

INSIST_SECONDS = 1.0
"""Time between two interruptions of a function that has caught the first."""

PASSED_ON = (RunError, OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""What a function raises without being at fault: the machine is, and another attempt may pass."""


class Batch(NamedTuple):
    """What reward functions look at; all lists have one entry per completion."""

    prompts: list[list[Message]]
    """The conversation that each completion answers."""
    completions: list[str]
    """What the model said, without special tokens."""
    columns: dict[str, list[Any]]
    """The columns of the data by name, `answer` among them where there is one; None where a row
    lacks a column."""


class Reward(NamedTuple):
    """One function of the weighted sum."""

    name: str
    """Its name in metrics and tables; no two of a run are the same."""
    weight: float
    score: Callable[[Batch], Sequence[float | None]]
    """One number per completion; None: does not apply to this one."""
    timeout_seconds: float | None = None
    """Longest time for one batch. None: no limit."""
    place: str = "rewards"
    """The field of the config that asks for it."""


class Scores(NamedTuple):
    """What a batch is worth."""

    total: list[float]
    """The weighted sum of each completion's rewards; those that do not apply are left out."""
    each: dict[str, list[float | None]]
    """Every function's own values, before weighting, by its name."""


def score(rewards: Sequence[Reward], batch: Batch) -> Scores:
    """Score a batch with every function.

    Raises:
        ConfigError: A function takes too long or fails, or what it returns is not one finite
            number or None per completion, or no function applies to a completion.
        OSError: A function could not reach a file or the network.
    """
    each = {reward.name: _values(reward, batch) for reward in rewards}
    total = []
    for sample, completion in enumerate(batch.completions):
        apply = [
            reward.weight * value
            for reward in rewards
            if (value := each[reward.name][sample]) is not None
        ]
        if not apply:
            raise ConfigError(
                f"rewards: none of {', '.join(each)} applies to sample {sample} of the batch"
                f" ({completion!r:.60}); at least one must return a number"
            )
        total.append(math.fsum(apply))
    return Scores(total, each)


def score_in_batches(
    rewards: Sequence[Reward], batch: Batch, size: int, before_batch: Callable[[], None]
) -> Scores:
    """Score `size` completions at a time; where there are none, no function is called.

    Args:
        rewards: Every function.
        batch: What is scored.
        size: Completions for which a function has its time limit.
        before_batch: Called before each; what it raises ends the scoring.

    Raises:
        ConfigError, OSError: As `score` does.
    """
    total: list[float] = []
    each: dict[str, list[float | None]] = {reward.name: [] for reward in rewards}
    for start in range(0, len(batch.completions), size):
        before_batch()
        part = slice(start, start + size)
        columns = {name: values[part] for name, values in batch.columns.items()}
        scores = score(rewards, Batch(batch.prompts[part], batch.completions[part], columns))
        total += scores.total
        for name, values in scores.each.items():
            each[name] += values
    return Scores(total, each)


def _values(reward: Reward, batch: Batch) -> list[float | None]:
    """What one function returns, checked."""
    returned: Any = _call(reward, batch)
    try:
        found = list(returned)
    except TypeError as error:
        raise ConfigError(
            f"{reward.place}: must return one number per completion, returned {returned!r:.60}"
        ) from error
    if len(found) != len(batch.completions):
        raise ConfigError(
            f"{reward.place}: returned {len(found)} rewards for {len(batch.completions)}"
            " completions; return one number, or None, for each"
        )
    return [
        None if value is None else _number(value, f"{reward.place}: sample {sample}", completion)
        for sample, (value, completion) in enumerate(zip(found, batch.completions, strict=True))
    ]


def _number(value: Any, where: str, completion: str) -> float:  # noqa: ANN401 - the user's
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{where} ({completion!r:.60}) got {value!r:.60}; return a finite number, or None where"
            " the function does not apply"
        )
    return number


def _call(reward: Reward, batch: Batch) -> object:
    """Call the function; what goes wrong in it becomes a sentence that tells where."""
    try:
        with _limited(reward.timeout_seconds):
            return reward.score(batch)
    except _TimeIsUpError as error:
        raise ConfigError(
            f"{reward.place}: took longer than {reward.timeout_seconds:g} s for"
            f" {len(batch.completions)} completions; make it faster, or raise timeoutSeconds"
        ) from error
    except PASSED_ON:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{reward.place}: failed with {type(error).__name__}: {error}"
            f" ({last.filename}, line {last.lineno})"
        ) from error


class _TimeIsUpError(BaseException):
    """Not an Exception: functions that catch those, to return 0 then, must not catch this."""


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Interrupt what runs longer, by SIGALRM; only the main thread can be interrupted so.

    A timer that somebody else has set goes on afterwards.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUpError

    handler = signal.signal(signal.SIGALRM, interrupt)
    others_delay, others_interval = signal.setitimer(signal.ITIMER_REAL, seconds, INSIST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if others_delay:
            signal.setitimer(signal.ITIMER_REAL, others_delay, others_interval)
