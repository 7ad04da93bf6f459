"""Rows that run at the same time, which uses a machine on which most of them wait."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar


class Named(Protocol):
    """What a row of either table has."""

    @property
    def name(self) -> str: ...

    @property
    def alone(self) -> bool:
        """Whether it disturbs others."""
        ...


R = TypeVar("R", bound=Named)


def rounds(rows: Iterable[R], most: int) -> list[tuple[R, ...]]:
    """Rows in groups of at most `most`; those that go alone come last."""
    rows = list(rows)
    together = [row for row in rows if not row.alone]
    parts = [tuple(together[start : start + most]) for start in range(0, len(together), most)]
    return parts + [(row,) for row in rows if row.alone]


def go_through(rows: Sequence[R], one: Callable[[R], None]) -> None:
    """Goes through rows at once.

    Raises:
        BaseExceptionGroup: Some failed; each error says which.
    """
    if len(rows) == 1:
        one(rows[0])  # what it starts ends with its thread, which is to be this one
        return
    with ThreadPoolExecutor(len(rows)) as pool:
        errors = [future.exception() for future in [pool.submit(one, row) for row in rows]]
    if found := [error for error in errors if error is not None]:
        raise BaseExceptionGroup("rows that failed", found)
