"""Means over users, weighted: 0 is a user without a profile."""

from __future__ import annotations

import torch
from torch import Tensor

_SAME = 1e-5


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """``sum_b w_b x_b / sum_b w_b``; 0, with gradient 0, where no weight is positive.

    Parameters
    ----------
    values, weight : float (or bool weight), same shape
        Weights are not negative.
    """
    weight = weight.to(values.dtype)
    # Rows without weight are cut out, not multiplied: their value may be infinite.
    kept = values.where(weight > 0, 0.0)
    return (kept * weight).sum() / positive(weight.sum())


def positive(total: Tensor) -> Tensor:
    """``total``, or 1 where it is 0: a divisor that leaves 0 / 0 at 0."""
    return total.where(total > 0, 1.0)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0, not infinite."""
    return x.where(x > 0, 1.0).sqrt().where(x > 0, 0.0)


def cut_out(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` [B, ...] with zeros in the rows that have no weight."""
    return torch.where((weight > 0).view(-1, *(1,) * (x.dim() - 1)), x, 0.0)


def pair_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``w_b w_c`` for every pair of different rows, [B, B]; the diagonal is 0."""
    weight = weight.to(dtype)
    return (weight[:, None] * weight).fill_diagonal_(0)


def distances(x: Tensor) -> Tensor:
    """Euclidean distance of every pair of rows, [B, B], gradient 0 where two rows coincide."""
    return safe_sqrt((x[:, None] - x).square().sum(2))


def same_direction(x: Tensor, y: Tensor) -> Tensor:
    """Whether unit vectors ``x`` [N, D] and ``y`` [M, D] are one profile, bool [N, M].

    Two pieces of one user, or two users with the same text, are no negatives of each other.
    """
    # A GPU's float32 products may have ten bits of mantissa, coarser than the threshold.
    return (x.detach().double() @ y.detach().double().t()) > 1 - _SAME
