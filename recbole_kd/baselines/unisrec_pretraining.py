"""UniSRec's contrastive pre-training over the train parts of several datasets (Hou et al., KDD 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.pretraining import Corpus, in_batch_infonce
from recbole_kd.baselines.unisrec import ADAPTOR, ENCODER, text_inputs
from recbole_kd.models.batch import Batch
from recbole_kd.models.build import build_student
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.list_head import last_prediction
from recbole_kd.models.side import SideInputs
from recbole_kd.training.spec import PretrainSpec, SystemSpec


class UniSRecPretraining(nn.Module):
    """L = L_seq-item + ``sequence_weight`` * L_seq-seq, both InfoNCE with in-batch negatives.

    With s_j the state before an item v_j, and s~ the state of an altered copy of the same sequence,

    L_seq-item = -mean_j log exp(cos(s_j, v_j) / tau) / sum_j' exp(cos(s_j, v_j') / tau)
    L_seq-seq = -mean_p log exp(cos(s_p, s~_p) / tau) / sum_p' exp(cos(s_p, s~_p') / tau).

    Items and sequences of all datasets mix in a batch. A copy loses each item with probability
    ``item_drop`` or (the other half of the sequences) reads item texts that lost words. Every position of a
    sequence is an example of the first loss, the end of every piece one of the second; pairs of one sequence
    or with the same next item are no negatives.

    Parameters
    ----------
    corpus : Corpus
        With ``texts``; with ``altered``, unless every copy loses items.
    hparams : mapping
        Of the SASRec that will be fine-tuned.
    params : mapping
        Of the system.
    spec : PretrainSpec
    max_len : int
    """

    packed: ClassVar[bool] = True
    texts: Tensor
    altered: Tensor | None

    def __init__(
        self,
        corpus: Corpus,
        hparams: Mapping[str, Any],
        params: Mapping[str, Any],
        spec: PretrainSpec,
        max_len: int,
    ) -> None:
        super().__init__()
        assert corpus.texts is not None
        width = corpus.texts.shape[1]
        side = SideInputs(0, torch.zeros(2, width))
        system = SystemSpec(name="unisrec", params={**params, "setting": "inductive"})
        self.student = build_student(
            "SASRec", hparams, n_items=2, max_len=max_len, seed=spec.seed, system=system, side=side
        )
        self.register_buffer("texts", text_inputs(corpus.texts), persistent=False)
        altered = None if corpus.altered is None else text_inputs(corpus.altered)
        self.register_buffer("altered", altered, persistent=False)
        self._item_drop = float(spec.args["item_drop"])
        self._sequence_weight = float(spec.args["sequence_weight"])

    def step_loss(self, batch: Batch, dropout: ByteDropout, rng: np.random.Generator) -> Tensor:
        """L of one batch."""
        self.student.system["adaptor"].reseed(int(rng.integers(1 << 62)))
        inputs, targets, ids = compact(batch)
        items = self._adapted(self.texts, ids)
        state = self._states(replace(batch, item_seq=inputs), items, dropout)
        carries = batch.target > 0
        goal, owner = batch.target[carries], batch.user[batch.segment[carries]]
        alike = (goal[:, None] == goal) | (owner[:, None] == owner)
        tau = self.student.temperature
        loss = in_batch_infonce(state[carries], F.normalize(items[targets[carries]], dim=1), tau, alike)
        if self._sequence_weight == 0:
            return loss
        end = last_prediction(batch)
        copy, altered_words = self._copy(replace(batch, item_seq=inputs), rng)
        other = self._adapted(self.texts if self.altered is None else self.altered, ids)
        seen = self._states(copy, items, dropout, other, altered_words)[last_prediction(copy)]
        goal = batch.target[end]
        alike = (goal[:, None] == goal) | (batch.user[:, None] == batch.user)
        return loss + self._sequence_weight * in_batch_infonce(state[end], seen, tau, alike)

    def learned(self) -> dict[str, Tensor]:
        """Encoder and adaptor, under the names that they have in a student."""
        state = self.student.state_dict()
        return {name: value for name, value in state.items() if name.startswith((*ENCODER, ADAPTOR))}

    def _adapted(self, texts: Tensor, ids: Tensor) -> Tensor:
        """Adapted texts of the items of a batch; 0 for padding and where there is no text."""
        rows = texts[ids]
        known = (rows != 0).any(1) & (ids > 0)
        adapted: Tensor = self.student.system["adaptor"](rows) * known[:, None]
        return adapted

    def _states(
        self,
        batch: Batch,
        items: Tensor,
        dropout: ByteDropout,
        other: Tensor | None = None,
        reads_other: Tensor | None = None,
    ) -> Tensor:
        """Unit states [B, L, H] of a batch whose items are rows of ``items``."""
        student = self.student
        if other is not None and reads_other is not None:
            batch = replace(batch, item_seq=batch.item_seq + reads_other * len(items))
            items = torch.cat([items, other])
        student._step_table = items
        try:
            states: Tensor = student.final(student.encode(batch, dropout)[-1])
        finally:
            student._step_table = None
        return states

    def _copy(self, batch: Batch, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """An altered copy: items lost in some pieces; bool [B, L] where words are, in the others."""
        n, device = len(batch.length), batch.item_seq.device
        words = np.zeros(n + 1, bool)
        if self.altered is not None:
            words[:n] = rng.random(n) < 0.5
        by_words = torch.from_numpy(words).to(device)[batch.segment]
        lost = torch.from_numpy(rng.random(tuple(batch.item_seq.shape)) < self._item_drop).to(device)
        return drop_items(batch, lost & ~by_words), by_words


def compact(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Number the items of a batch anew.

    Returns
    -------
    inputs, targets : int64 [B, L]
        Row of every item in ``ids``; 0 stays padding.
    ids : int64 [N]
        Items in the batch; ``ids[0]`` is 0.
    """
    grids = torch.stack([batch.item_seq, batch.target])
    flat = torch.cat([grids.flatten(), grids.new_zeros(1)])
    ids, at = torch.unique(flat, return_inverse=True)
    inputs, targets = at[:-1].view(grids.shape)
    return inputs, targets, ids


def drop_items(batch: Batch, lost: Tensor) -> Batch:
    """Take items out of their pieces; what is left moves up. An emptied piece keeps its last item.

    Parameters
    ----------
    lost : bool [B, L]
    """
    n = len(batch.length)
    real = batch.segment < n
    left = torch.zeros(n + 1, dtype=torch.int64, device=lost.device)
    left.scatter_add_(0, batch.segment.flatten(), (real & ~lost).long().flatten())
    piece_end = real & (batch.position == batch.length[batch.segment.clamp_max(n - 1)] - 1)
    kept = real & (~lost | (piece_end & (left[batch.segment] == 0)))
    count = kept.long().cumsum(1)
    column = torch.arange(lost.shape[1], device=lost.device).expand_as(lost)
    begin = (column - batch.position).clamp_min(0)
    before = (count - kept.long()).gather(1, begin)
    return replace(
        batch,
        item_seq=batch.item_seq * kept,
        position=(count - 1 - before).clamp_min(0) * kept,
        segment=torch.where(kept, batch.segment, n),
        length=torch.where(left[:n] == 0, 1, left[:n]),
    )
