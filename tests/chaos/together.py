"""Rows that run at the same time, which uses a machine on which most of them wait."""

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import pytest


class Named(Protocol):
    """What a row of either table has."""

    @property
    def name(self) -> str: ...

    @property
    def alone(self) -> bool:
        """Whether it disturbs others."""
        ...


R = TypeVar("R", bound=Named)


class Trial(NamedTuple, Generic[R]):
    """A row, for the how manieth time."""

    row: R
    number: int

    def __str__(self) -> str:
        return f"{self.row.name}-{self.number}"


def trials(rows: Iterable[R], runs: int, at_once: int, seconds: int) -> list[Any]:
    """Parameters of a test: all trials that go together, and each of those that go alone.

    Args:
        rows: The rows.
        runs: How often each is tried.
        at_once: How many go together.
        seconds: How long a trial may take.
    """
    rows = list(rows)
    tried = [Trial(row, number) for number in range(runs) for row in rows]
    together = tuple(trial for trial in tried if not trial.row.alone)
    groups = [together] if together else []
    groups += [(trial,) for trial in tried if trial.row.alone]
    return [
        pytest.param(
            group,
            id=str(group[0]) if len(group) == 1 else f"{len(group)}-together",
            marks=pytest.mark.timeout(seconds * math.ceil(len(group) / at_once)),
        )
        for group in groups
    ]


def go_through(tried: Sequence[Trial[R]], one: Callable[[Trial[R]], None], at_once: int) -> None:
    """Makes trials, some at once.

    Raises:
        BaseExceptionGroup: Some failed; each error says which.
    """
    if len(tried) == 1:
        one(tried[0])  # what it starts ends with its thread, which is to be this one
        return
    found = []
    with ThreadPoolExecutor(at_once) as pool:
        for ended in as_completed([pool.submit(one, trial) for trial in tried]):
            if (error := ended.exception()) is not None:
                traceback.print_exception(error)  # the last may end hours later
                found.append(error)
    if found:
        raise BaseExceptionGroup("trials that failed", found)
