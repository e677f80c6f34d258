"""SASRec student."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_kd.models.batch import Batch, segment_mask
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.mixin import DistillationMixin
from recbole_kd.models.prefix import PrefixLossMixin
from recbole_kd.models.transformer import embed, encode, encode_one
from recbole_kd.models.upstream import SASRec


class SASRecKD(DistillationMixin, PrefixLossMixin, SASRec):
    """RecBole's SASRec (Kang and McAuley, ICDM 2018) with a distillation head."""

    shift = True
    packed = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.distil_head = None

    def encode(self, batch: Batch, dropout: ByteDropout | None) -> list[Tensor]:
        """Outputs of block 1..n, each [B, L, H]; causal attention inside each piece."""
        x = embed(self, batch, dropout)
        return encode(self, x, segment_mask(batch.segment, causal=True), dropout)

    def final(self, x: Tensor) -> Tensor:
        """SASRec compares the last block's output with the items as it is."""
        return x

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """Output at the last item, [B, E]."""
        batch, at = self.serve_batch(item_seq, item_seq_len, user)
        x = embed(self, batch, None)
        return self.final(encode_one(self, x, segment_mask(batch.segment, causal=True), at))
