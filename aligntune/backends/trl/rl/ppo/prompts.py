"""Which prompts come next: an endless sequence that any attempt can enter anywhere."""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from aligntune.core.errors import DataError
from aligntune.data.sources import Rows

Row = dict[str, Any]


def endless(rows: Rows, seed: int, start: int) -> Iterator[Row]:
    """The rows, pass after pass, each in an order of its own, from place `start` on.

    A pass follows the one before without a gap, so that no row is left out because a rollout does
    not end with the data. The same `seed` gives the same sequence in every process and attempt. A
    stream has to be read up to `start`.

    Raises:
        DataError: There are no rows.
    """
    if isinstance(rows, Dataset):
        return _shuffled(rows, seed, start)
    return islice(_streamed(rows), start, None)


def _shuffled(rows: Dataset, seed: int, start: int) -> Iterator[Row]:
    first, behind = divmod(start, len(rows))
    for number in count(first):
        order = np.random.default_rng([seed, number]).permutation(len(rows))
        for index in order[behind if number == first else 0 :]:
            yield dict(rows[int(index)])


def _streamed(rows: IterableDataset) -> Iterator[Row]:
    for number in count():
        rows.set_epoch(number)
        empty = True
        for row in rows:
            empty = False
            yield dict(row)
        if empty:
            raise DataError("datasets: the streams hold no prompt that can be used")
