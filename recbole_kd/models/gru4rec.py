"""GRU4Rec student."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.gru import gru_layers
from recbole_kd.models.mixin import DistillationMixin
from recbole_kd.models.prefix import PrefixLossMixin
from recbole_kd.models.upstream import GRU4Rec


class GRU4RecKD(DistillationMixin, PrefixLossMixin, GRU4Rec):
    """RecBole's GRU4Rec (Tan et al., DLRS 2016) with a distillation head."""

    shift = True
    packed = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.distil_head = None

    def n_blocks(self) -> int:
        """Number of GRU layers."""
        return int(self.num_layers)

    def block_stack(self) -> nn.Module:
        """The nn.GRU."""
        stack: nn.Module = self.gru_layers
        return stack

    def encode(self, batch: Batch, dropout: ByteDropout | None) -> list[Tensor]:
        """Outputs of GRU layer 1..n, each [B, L, hidden_size].

        Right padding cannot reach earlier positions, so a row needs no mask, but only one piece.
        """
        if not batch.single:
            raise ValueError("a recurrent backbone needs one piece per row")
        x = self.input_vectors(batch)
        if dropout:
            x = dropout(x, self.dropout_prob)
        return gru_layers(self.gru_layers, x)

    def final(self, x: Tensor) -> Tensor:
        """Hidden state -> item space."""
        out: Tensor = self.dense(x)
        return out
