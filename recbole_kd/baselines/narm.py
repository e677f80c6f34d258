"""NARM: neural attentive session-based recommendation (Li et al., CIKM 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.baselines.trained import SequenceTrained
from recbole_kd.models import upstream
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.gru import gru_layers


class NARM(SequenceTrained, upstream.NARM):
    """c_t = [h_t; sum_{j<=t} v.sigmoid(A1 h_j + A2 h_t) h_j], score = e_i . B c_t, at every position t."""

    def states(self, batch: Batch, dropout: ByteDropout | None, at: Tensor | None) -> Tensor:
        """B c_t."""
        if not batch.single:
            raise ValueError("a recurrent model needs one piece per row")
        x = F.embedding(batch.item_seq, self.item_embedding.weight, padding_idx=0)
        if dropout:
            x = dropout(x, self.dropout_probs[0])
        hidden = gru_layers(self.gru, x)[-1]  # [B, L, H]
        length = hidden.shape[1]
        row, column = _places(batch, at)
        query = hidden[row, column]  # [T, H]
        weight = torch.sigmoid(self.a_1(hidden)[row] + self.a_2(query)[:, None])  # [T, L, H]
        alpha = self.v_t(weight).squeeze(-1)
        before = torch.arange(length, device=hidden.device) <= column[:, None]
        local = ((alpha * before)[:, None] @ hidden[row]).squeeze(1)
        both = torch.cat([local, query], 1)
        if dropout:
            both = dropout(both, self.dropout_probs[1])
        out: Tensor = self.b(both)
        return out


def _places(batch: Batch, at: Tensor | None) -> tuple[Tensor, Tensor]:
    if at is None:
        row, column = torch.nonzero(batch.target > 0, as_tuple=True)
        return row, column
    return torch.arange(len(at), device=at.device), at
