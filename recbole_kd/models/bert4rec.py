"""BERT4Rec student."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd.models.batch import Batch, segment_mask
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.mixin import DistillationMixin, padded_batch
from recbole_kd.models.prefix import PrefixLossMixin
from recbole_kd.models.transformer import embed, encode, encode_at, encode_one
from recbole_kd.models.upstream import BERT4Rec


class BERT4RecKD(DistillationMixin, PrefixLossMixin, BERT4Rec):
    """RecBole's BERT4Rec (Sun et al., CIKM 2019) with a distillation head.

    Two defects of RecBole 1.2.1's evaluation and training are not inherited: the first item of the
    history is not dropped (a user with one item is served), and every train item can be masked,
    position 0 and a user's last item included.
    """

    shift = False
    packed = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.ft_ratio = float(config["ft_ratio"])
        self.distil_head = None

    def encode(self, batch: Batch, dropout: ByteDropout | None) -> list[Tensor]:
        """Outputs of block 1..n, each [B, L, H]; attention in both directions inside each piece."""
        x = embed(self, batch, dropout)
        return encode(self, x, segment_mask(batch.segment, causal=False), dropout)

    def target_states(self, batch: Batch, at: Tensor, dropout: ByteDropout | None) -> Tensor:
        """Vectors at the masked positions, [T, E]; the last block is computed only there."""
        x = embed(self, batch, dropout)
        return self.final(encode_at(self, x, segment_mask(batch.segment, causal=False), at, dropout))

    def final(self, x: Tensor) -> Tensor:
        """Output network of BERT4Rec (eq. 7): linear, GELU, LayerNorm."""
        out: Tensor = self.output_ln(self.output_gelu(self.output_ffn(x)))
        return out

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """Item embeddings without the mask token, and the output bias."""
        return self.item_weights()[: self.n_items], self.output_bias

    def prepare(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Hide items: each with ``mask_ratio``, or, in a share ``ft_ratio`` of pieces, only the last one.

        Inside a history pieces end at random places. One that ends with the history is shortened to a random
        end, or a user's last item would be asked for in every epoch and any other in one of ``max_len``.
        A piece in which chance hides nothing has its last item hidden, so every piece carries a loss.
        """
        segment, position = batch.segment.numpy(force=True), batch.position.numpy(force=True)
        length = batch.length.numpy(force=True)
        real = segment < len(length)
        piece, at = segment[real], position[real]
        hide = rng.random(len(piece), dtype=np.float32) < self.mask_ratio
        mask_last = rng.random(len(length)) < self.ft_ratio
        to_the_end = (batch.start + batch.length == batch.history).numpy(force=True)
        shortened = mask_last & to_the_end & (length > 1)
        last = length - 1
        if shortened.any():
            last = np.where(shortened, rng.integers(1, np.maximum(length, 2)), last)
        hide &= ~mask_last[piece]
        empty = np.bincount(piece[hide], minlength=len(length)) == 0
        hide |= (at == last[piece]) & empty[piece]

        def on_grid(chosen: NDArray[np.bool_]) -> Tensor:
            grid = np.zeros(segment.shape, bool)
            grid[real] = chosen
            return torch.from_numpy(grid).to(batch.item_seq.device)

        hidden, gone = on_grid(hide), on_grid(at > last[piece])
        return replace(
            batch,
            item_seq=torch.where(hidden, self.mask_token, batch.item_seq).masked_fill(gone, 0),
            target=torch.where(hidden, batch.target, 0),
            position=batch.position.masked_fill(gone, 0),
            segment=batch.segment.masked_fill(gone, len(length)),
            length=torch.from_numpy(last + 1).to(batch.length.device),
        )

    def reconstruct_test_data(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Append the mask token; only a history that fills the row loses its oldest item.

        RecBole always drops the first item and then reads position ``len - 1``; callers of this class
        read the same position, so the row is laid out with the mask token there.
        """
        return self._with_mask(item_seq, item_seq_len)[0]

    def _with_mask(self, item_seq: Tensor, item_seq_len: Tensor) -> tuple[Tensor, Tensor]:
        width = item_seq.shape[1]
        full = item_seq_len >= width
        item_seq = torch.where(full[:, None], item_seq.roll(-1, 1), item_seq)
        at = torch.where(full, width - 1, item_seq_len)
        return item_seq.scatter(1, at[:, None], self.mask_token), at

    def serve_batch(
        self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None
    ) -> tuple[Batch, Tensor]:
        """Append the mask token; its column is the one that is compared."""
        masked, at = self._with_mask(item_seq, item_seq_len)
        return padded_batch(masked, at + 1, user), at

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """Vectors at the appended mask token, [B, E]."""
        batch, at = self.serve_batch(item_seq, item_seq_len, user)
        x = embed(self, batch, None)
        return self.final(encode_one(self, x, segment_mask(batch.segment, causal=False), at))

    def predict(self, interaction: Any) -> Tensor:
        """Score of one item per row, [B]."""
        scores = self._serve(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, [B, n_items]."""
        return self._serve(interaction)

    def _serve(self, interaction: Any) -> Tensor:
        masked, at = self._with_mask(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        state = self.gather_indexes(self.forward(masked), at)
        items, bias = self.item_table()
        return state @ items.t() + bias
