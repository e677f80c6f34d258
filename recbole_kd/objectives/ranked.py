"""What the objectives over ranked lists get as a teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RankedBatch(NamedTuple):
    """Teacher lists of a batch.

    Attributes
    ----------
    items : int64 [B, K]
        Best first; 0 where a list is shorter.
    score : float [B, K]
        The teacher's score, larger is better; 0 where there is no item.
    others : int64 [B, N]
        Items drawn from outside the list; 0 where there is none.
    """

    items: Tensor
    score: Tensor
    others: Tensor

    @property
    def there(self) -> Tensor:
        """Where a list has an item, bool [B, K]."""
        return self.items > 0


def without_padding(scores: Tensor) -> Tensor:
    """``scores`` [B, n_items] with minus infinity for item 0, which is nobody's."""
    hole = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
    hole[0] = True
    return scores.masked_fill(hole, float("-inf"))


def position_weight(there: Tensor, decay: float, dtype: torch.dtype) -> Tensor:
    """``exp(-k / decay)``, k = 1..K, normalised over the items of every list, [B, K]."""
    k = torch.arange(1, there.shape[1] + 1, device=there.device, dtype=dtype)
    return normalised(torch.exp(-k / decay).expand(there.shape), there)


def normalised(x: Tensor, there: Tensor) -> Tensor:
    """``x`` [B, K] divided by its sum over the items of every list; rows that sum to 0 stay 0."""
    x = torch.where(there, x, 0.0)
    total = x.sum(1, keepdim=True)
    return x / total.where(total > 0, 1.0)
