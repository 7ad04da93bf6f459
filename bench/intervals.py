"""How figures are told: a mean and how far off it may be, a median and its range."""

import statistics
from collections.abc import Sequence

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
"""97.5% quantiles from one degree of freedom on; more degrees are given the last, too wide one."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95% confidence interval; at least two values."""
    middle = statistics.mean(values)
    quantile = STUDENT_T[min(len(values) - 1, len(STUDENT_T)) - 1]
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return middle, middle - half, middle + half


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    figures = (statistics.median(values), min(values), max(values))
    return "{} ({} to {})".format(*(f"{figure:.{digits}f}" for figure in figures))


def ratio(ours: Sequence[float], other: Sequence[float]) -> str:
    """Of each pair, their mean with its 95% interval."""
    ratios = [one / two for one, two in zip(ours, other, strict=True)]
    return "{:.3f} ({:.3f} to {:.3f})".format(*interval(ratios))
