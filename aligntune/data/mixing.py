"""Mixing several sources by weight."""

import random
from collections.abc import Iterator, Sequence


def draw(lengths: Sequence[int], weights: Sequence[float], seed: int) -> list[int]:
    """Which rows make one epoch of the mixture.

    Each row comes from source s with probability weights[s] / sum(weights). A source gives each of
    its rows once, in an order of its own, before it gives any of them again. An epoch has as many
    rows as the sources together; all epochs have the same ones.

    Args:
        lengths: Rows of each source; all above 0.
        weights: Relative probability of each source.
        seed: Decides everything.

    Returns:
        Indices into the sources laid end to end.
    """
    chance = random.Random(seed)  # noqa: S311 - a reproducible order, not a secret
    starts = [sum(lengths[:source]) for source in range(len(lengths))]
    rows = [_passes(length, chance) for length in lengths]
    sources = chance.choices(range(len(lengths)), weights, k=sum(lengths))
    return [starts[source] + next(rows[source]) for source in sources]


def _passes(length: int, chance: random.Random) -> Iterator[int]:
    """All rows in a random order, again and again."""
    while True:
        yield from chance.sample(range(length), length)
