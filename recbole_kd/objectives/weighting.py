"""Means over users, weighted: 0 is a user without a profile."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """``sum_b w_b x_b / sum_b w_b``; 0, with gradient 0, where no weight is positive.

    Parameters
    ----------
    values : float [B]
    weight : bool or float [B]
        Not negative.
    """
    weight = weight.to(values.dtype)
    total = weight.sum()
    # Rows without weight are cut out, not multiplied: their value may be infinite.
    kept = values.where(weight > 0, values.new_zeros(()))
    return (kept * weight).sum() / total.where(total > 0, total.new_ones(()))
