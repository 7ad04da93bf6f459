"""How figures are told: a mean and how far off it may be, a median and its range."""

import statistics
from collections.abc import Sequence

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
"""97.5% quantiles from one degree of freedom on; more degrees are given the last, too wide one."""


def confidence(values: Sequence[float]) -> str:
    """Mean, with its 95% interval where there is more than one value."""
    middle = statistics.mean(values)
    if len(values) == 1:
        return f"{middle:.3f}"
    quantile = STUDENT_T[min(len(values) - 1, len(STUDENT_T)) - 1]
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{middle:.3f} ({middle - half:.3f} to {middle + half:.3f})"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    figures = (statistics.median(values), min(values), max(values))
    return "{} ({} to {})".format(*(f"{figure:.{digits}f}" for figure in figures))


def ratio(ours: Sequence[float], other: Sequence[float]) -> str:
    """Of each pair, their mean with its 95% interval."""
    return confidence([one / two for one, two in zip(ours, other, strict=True)])
