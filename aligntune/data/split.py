"""Which rows are held out, so that a model is measured on what it has not seen."""

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence


def stratified(classes: Sequence[Hashable], ratio: float, seed: int) -> list[int]:
    """Rows to hold out, of each class about its share.

    What rounding takes from one class the next one gets, so that the whole comes to its share
    too. One row of each class stays at least, and one is held out if any class has two.

    Args:
        classes: The class of each row.
        ratio: Share that is held out, between 0 and 1.
        seed: Decides which.

    Returns:
        Their indices, in order; empty where each row is the only one of its class.
    """
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, not a secret
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, name in enumerate(classes):
        members[name].append(index)
    held_out: list[int] = []
    owed = 0.0
    for rows in members.values():
        owed += ratio * len(rows)
        taken = min(max(round(owed), 0), len(rows) - 1)
        owed = min(owed - taken, 0.5)  # what small classes cannot give, no other makes up for
        held_out += chance.sample(rows, taken)
    largest = max(members.values(), key=len)
    if not held_out and len(largest) > 1:
        held_out = [chance.choice(largest)]
    return sorted(held_out)
