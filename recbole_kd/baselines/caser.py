"""Caser: convolutional sequence embedding (Tang and Wang, WSDM 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.baselines.trained import SequenceTrained, users_of
from recbole_kd.models import upstream
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout


class Caser(SequenceTrained, upstream.Caser):
    """Horizontal and vertical convolutions over the last ``window`` items (the paper's L), plus the user.

    RecBole convolves the whole padded row of 50; the paper's L is 5. Targets are single next items (T = 1).
    """

    def __init__(self, config: Mapping[str, Any], dataset: Any) -> None:
        super().__init__({**config, "MAX_ITEM_LIST_LENGTH": config["window"]}, dataset)

    def states(self, batch: Batch, dropout: ByteDropout | None, at: Tensor | None) -> Tensor:
        """RecBole's forward pass over the window that ends at every position."""
        if at is None:
            row, column = torch.nonzero(batch.target > 0, as_tuple=True)
        else:
            row, column = torch.arange(len(at), device=at.device), at
        out: Tensor = self.forward(
            users_of(batch, at), windows(batch.item_seq, row, column, self.max_seq_length)
        )
        return out

    def rec_loss(self, state: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
        """Cross-entropy plus RecBole's L2 terms."""
        weights = [self.user_embedding, self.item_embedding, self.conv_v, self.fc1, self.fc2]
        decay: Tensor = self.reg_loss([module.weight for module in weights])
        total: Tensor = (
            super().rec_loss(state, target, rng) + self.reg_weight * decay + self.reg_loss_conv_h()
        )
        return total


def windows(item_seq: Tensor, row: Tensor, column: Tensor, width: int) -> Tensor:
    """Last ``width`` items up to each place, right-padded with 0.

    Parameters
    ----------
    item_seq : int64 [B, L]
        One history per row, from column 0.
    row, column : int64 [T]
    width : int

    Returns
    -------
    int64 [T, width]
    """
    source = (column - width + 1).clamp_min(0)[:, None] + torch.arange(width, device=item_seq.device)
    inside = source <= column[:, None]
    found = item_seq[row[:, None], torch.where(inside, source, 0)]
    return torch.where(inside, found, 0)
