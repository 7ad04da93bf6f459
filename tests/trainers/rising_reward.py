"""A reward function of a user's own, by which every rollout is better than the one before."""

import itertools

from aligntune.rewards.scoring import Batch

_calls = itertools.count(1)


def rising(batch: Batch) -> list[float]:
    """The number of the call, and a little more for longer completions."""
    call = next(_calls)
    return [call + 0.01 * len(text) for text in batch.completions]
