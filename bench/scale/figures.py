"""From what was seen to figures: pure, so that they can be made again from the raw data."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

PERCENTS = (50, 95, 99)
MILESTONES = ("object", "job", "pod", "running", "succeeded")
"""What is waited for after an object was created, in order: that a watch shows it; its Job; its
pod; a status that says that it runs, or ran; a status that says that it is done."""

Timeline = Mapping[str, Mapping[str, float]]
"""Name of an object -> `created` or milestone -> when, in seconds."""


class Spread(NamedTuple):
    """The median of some runs, and their range."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that this share of all values do not exceed: no value is made up."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def latencies(timeline: Timeline, since: str, until: str) -> list[float]:
    """Seconds from one milestone to another, of every object that has both; never below 0."""
    both = (times for times in timeline.values() if since in times and until in times)
    return [max(times[until] - times[since], 0.0) for times in both]


def cuts(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the maximum."""
    marks = {f"p{percent}": percentile(values, percent) for percent in PERCENTS}
    return marks | {"max": max(values)}


def rate(timeline: Timeline, until: str, began: float) -> float:
    """Objects a second, from the beginning until the last of them had reached a milestone."""
    last = max(times[until] for times in timeline.values())
    return len(timeline) / (last - began)
