"""What training and ranking call of a baseline that is a model of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch
from recbole_kd.models.cross_entropy import catalogue_cross_entropy
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.mixin import padded_batch

_GAMMA = 1e-10


class SequenceTrained:
    """Put left of a RecBole class whose parameters it keeps; takes no teacher.

    A model implements :meth:`states` and, where its loss is not cross-entropy over the catalogue,
    :meth:`rec_loss`.
    """

    shift: ClassVar[bool] = True
    packed: ClassVar[bool] = False
    distil_head = None
    softmax_dtype: torch.dtype | None = None

    def states(self, batch: Batch, dropout: ByteDropout | None, at: Tensor | None) -> Tensor:
        """Vectors compared with the items.

        Parameters
        ----------
        batch : Batch
        dropout : ByteDropout or None
            None in evaluation.
        at : int64 [B], optional
            One column per row; without it, every position with a target.

        Returns
        -------
        float [T, E] or [B, E]
        """
        raise NotImplementedError

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """Item vectors [n_items, E]."""
        model: Any = self
        return model.item_embedding.weight, None

    def rec_loss(self, state: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean loss of states [T, E] whose next items are ``target`` [T]."""
        items, bias = self.item_table()
        return catalogue_cross_entropy(state, items, target, bias, dtype=self.softmax_dtype)

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Loss of one batch; there is never a distillation term."""
        state, target = self.states(batch, dropout, None), batch.target[batch.target > 0]
        # Autocast is over here: softmax and losses have a precision of their own.
        with torch.autocast(state.device.type, enabled=False):
            return self.rec_loss(state.float(), target, rng), None

    def total_loss(self, loss_rec: Tensor, loss_distil: Tensor | None, alpha: float) -> Tensor:
        """The one loss there is."""
        return loss_rec

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """Vectors compared with the items when serving, [B, E]."""
        return self.states(padded_batch(item_seq, item_seq_len, user), None, item_seq_len - 1)

    def student_state(self) -> dict[str, Tensor]:
        """State dict; loads, strict, into the RecBole class."""
        model: Any = self
        state: dict[str, Tensor] = model.state_dict()
        return state


def pairwise_loss(state: Tensor, items: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
    """BPR: L = -mean log(1e-10 + sigmoid(s_pos - s_neg)), one negative (Rendle et al., UAI 2009).

    The negative is uniform over the catalogue without the target; the user's other items are not
    excluded, as the batch does not know them.

    Parameters
    ----------
    state : float [T, E]
    items : float [n_items, E]
    target : int64 [T]
    rng : numpy Generator

    Raises
    ------
    SpecError
        There is no other item.
    """
    n_items = len(items)
    if n_items < 3:
        raise SpecError(
            "a pairwise loss needs two items, one of them as the negative; the catalogue has fewer"
        )
    drawn = torch.from_numpy(rng.integers(1, n_items - 1, size=len(target))).to(target.device)
    negative = drawn + (drawn >= target).to(drawn.dtype)
    difference = (state * (F.embedding(target, items) - F.embedding(negative, items))).sum(1)
    return -(_GAMMA + difference.sigmoid()).log().mean()


def users_of(batch: Batch, at: Tensor | None) -> Tensor:
    """User of every position with a target, or of every row when serving."""
    return batch.user if at is not None else batch.user[batch.segment[batch.target > 0]]
