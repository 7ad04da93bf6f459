"""A mean and how far off it may be."""

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
