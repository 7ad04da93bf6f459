"""Means and variances over all processes, from sums: they do not depend on who holds which rows."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""

TINY = 1e-8
"""Keeps a division by a variance of zero finite."""


class Moments(NamedTuple):
    """What is known of the values where a mask holds, over all processes."""

    number: Tensor
    mean: Tensor
    variance: Tensor
    """Unbiased (n - 1); zero of a single value."""


def moments(values: Tensor, mask: Tensor, total: Total) -> Moments:
    """Count, mean and variance of `values` where `mask` holds.

    The deviations are summed in a second pass: sums of squares would lose the digits of values that
    lie close together and far from zero.

    Args:
        values: Any shape.
        mask: Of the same shape, bool.
        total: Adds up over the processes, each of which holds a part of the values.
    """
    kept = values[mask].double()
    count, sum_ = total(torch.stack([kept.new_tensor(kept.numel()), kept.sum()]))
    mean = sum_ / count.clamp(min=1)
    squares = total((kept - mean).square().sum())
    return Moments(count, mean, squares / (count - 1).clamp(min=1))


def whiten(values: Tensor, mask: Tensor, total: Total, *, shift_mean: bool = True) -> Tensor:
    """Scale to unit variance over all processes; zero where `mask` does not hold.

    Args:
        values: Any shape.
        mask: Of the same shape, bool.
        total: Adds up over the processes.
        shift_mean: Also move the mean to zero; else it stays where it was.
    """
    known = moments(values, mask, total)
    scale = torch.rsqrt(known.variance + TINY)
    centre = (values - known.mean) * scale
    whitened = centre if shift_mean else centre + known.mean
    return torch.where(mask, whitened, 0).to(values.dtype)
