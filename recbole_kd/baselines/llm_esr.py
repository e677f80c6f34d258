"""LLM-ESR: large language model enhancement for long-tailed sequences (Liu et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.system import Read, System, required
from recbole_kd.baselines.text_init import initialise_from_text
from recbole_kd.models.batch import Batch, segment_mask
from recbole_kd.models.cross_entropy import catalogue_cross_entropy
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.list_head import last_prediction
from recbole_kd.models.side import SideInputs

_BLOCK = 1024


class LLMESR(System):
    """Dual view with one shared backbone f, and retrieval-augmented self-distillation.

    Semantic view: e^se_i = W_2 (W_1 t_i + b_1) + b_2, t frozen. Collaborative view: e^co, trained, begun
    with the principal components of t. Cross-attention lets each view read the other before the encoder,
    S'_a = softmax(Q_a K_b^T / sqrt(d)) V_b, and u = [f(S_se + S'_se); f(S_co + S'_co)] is compared with
    [e^se; e^co]. With N(u) the users whose profiles are most alike,

    L = L_rec + alpha * mean_u ||h_u - stopgrad(mean_{v in N(u)} h_v)||^2 / dim.

    Differences from the paper, because every position of a sequence is trained at once: cross-attention is
    causal and the views are added to, not replaced by, what it reads; L_rec is cross-entropy over the
    catalogue instead of one negative; h_v comes from a bank of each user's latest state (at most one epoch
    old) instead of a second forward pass. Profiles are read while training only.

    On BERT4Rec cross-attention looks both ways, the mask token has a learned vector in either view, and h_u
    is the state at the last hidden item.
    """

    backbones = ("SASRec", "GRU4Rec", "BERT4Rec")
    loss_is_its_own = True
    _view: Tensor | None = None

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Semantic adapter, two cross-attentions, neighbours and the bank of states."""
        model: Any = self
        texts = required(side.items, "item", "llm-esr")
        users = required(side.users, "profile", "llm-esr")
        table = model.item_embedding.weight
        dim = table.shape[1]
        hidden = int(params["adapter_hidden"])
        with torch.no_grad():
            initialise_from_text(table[: model.n_items], texts, float(params["init_scale"]))
        parts = {
            "text": Read(F.normalize(texts.float(), dim=1)),
            "adapter": nn.Sequential(nn.Linear(texts.shape[1], hidden), nn.Linear(hidden, dim)),
            "to_semantic": CrossAttention(dim),
            "to_collaborative": CrossAttention(dim),
            "bank": Bank(nearest_users(users.float(), int(params["neighbours"])), 2 * dim),
        }
        if self._masks():
            parts["mask"] = nn.Embedding(1, dim)
        self.system = nn.ModuleDict(parts)
        self.self_distillation = float(params["alpha"])

    def _semantic(self) -> Tensor:
        system: Any = self.system
        table: Tensor = system["adapter"](system["text"].vectors)
        return table

    def _masks(self) -> bool:
        """Whether the backbone predicts hidden items instead of the next one."""
        return hasattr(self, "mask_token")

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """[e^se; e^co] of every item, [n_items, 2 E], and the backbone's bias."""
        items, bias = super().item_table()  # type: ignore[misc]
        return torch.cat([self._semantic(), items], 1), bias

    def input_vectors(self, batch: Batch) -> Tensor:
        """The view that is being encoded."""
        assert self._view is not None
        return self._view

    def both_views(self, batch: Batch, dropout: ByteDropout | None) -> Tensor:
        """u at every position, [B, L, 2 E]."""
        model: Any = self
        system: Any = self.system
        table = self._semantic()
        if self._masks():
            table = torch.cat([table, system["mask"].weight])
        semantic = F.embedding(batch.item_seq, table)
        collaborative = F.embedding(batch.item_seq, model.item_embedding.weight, padding_idx=0)
        mask = segment_mask(batch.segment, causal=not self._masks()).squeeze(1)
        read = system["to_semantic"](semantic, collaborative, mask)
        reverse = system["to_collaborative"](collaborative, semantic, mask)
        out = []
        for view in (semantic + read, collaborative + reverse):
            self._view = view
            out.append(model.final(model.encode(batch, dropout)[-1]))
        self._view = None
        return torch.cat(out, -1)

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """L; there is no distillation term of the usual kind."""
        model: Any = self
        # A device's batches come prepared; hiding items twice would leave masks without a target.
        batch = model.prepare(batch, rng) if batch.at is None else batch
        states = self.both_views(batch, dropout)
        # Autocast is over here, as for the plain backbones.
        with torch.autocast(states.device.type, enabled=False):
            return self._loss(states.float(), batch), None

    def _loss(self, states: Tensor, batch: Batch) -> Tensor:
        model: Any = self
        system: Any = self.system
        carries = batch.target > 0
        items, bias = self.item_table()
        loss = catalogue_cross_entropy(
            states[carries], items, batch.target[carries], bias, dtype=model.softmax_dtype
        )
        if self._masks():
            last, owner = states[last_prediction(batch)], batch.user
        else:
            at = (batch.segment < len(batch.length)) & _is_last(batch)
            last, owner = states[at], batch.user[batch.segment[at]]
        total: Tensor = loss + self.self_distillation * system["bank"](last, owner)
        return total

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """u at the last item."""
        model: Any = self
        batch, at = model.serve_batch(item_seq, item_seq_len, user)
        return self.both_views(batch, None)[torch.arange(len(at), device=at.device), at]


def _is_last(batch: Batch) -> Tensor:
    piece = batch.segment.clamp_max(len(batch.length) - 1)
    return batch.position == batch.length[piece] - 1


class CrossAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V with queries of one view, keys and values of the other.

    Parameters
    ----------
    dim : int
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """Read ``other`` [B, L, E] with queries ``own``; ``mask`` bool [B, L, L]."""
        query, key, value = self.query(own), self.key(other), self.value(other)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Bank(nn.Module):
    """Latest state of every user and the distance to the mean state of the neighbours.

    Parameters
    ----------
    neighbours : int64 [n_users, K]
        0 where a user has none.
    dim : int
    """

    neighbours: Tensor
    states: Tensor
    filled: Tensor

    def __init__(self, neighbours: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("states", torch.zeros(len(neighbours), dim), persistent=False)
        self.register_buffer("filled", torch.zeros(len(neighbours), dtype=torch.bool), persistent=False)

    def carried_state(self) -> dict[str, Any]:
        """The bank itself; neighbours do not change."""
        return {"states": self.states, "filled": self.filled}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`carried_state` gave."""
        self.states.copy_(state["states"])
        self.filled.copy_(state["filled"])

    def forward(self, state: Tensor, user: Tensor) -> Tensor:
        """Mean squared distance of [P, D] to the neighbours met so far; then these states are kept."""
        near = self.neighbours[user]
        met = (self.filled[near] & (near > 0)).to(state.dtype)
        target = (self.states[near] * met[..., None]).sum(1) / met.sum(1).clamp_min(1)[:, None]
        has = (met.sum(1) > 0).to(state.dtype)
        distance = ((state - target) ** 2).mean(1)
        with torch.no_grad():
            self.states[user] = state.detach()
            self.filled[user] = True
        return (distance * has).sum() / has.sum().clamp_min(1)


def nearest_users(profiles: Tensor, k: int) -> Tensor:
    """The ``k`` users with the most alike profiles by cosine, without the user; 0 fills up.

    Parameters
    ----------
    profiles : float [n_users, D]
        A row of zeros is a user without profile, who neither has nor is a neighbour.

    Returns
    -------
    int64 [n_users, k]
    """
    unit = F.normalize(profiles, dim=1)
    known = (profiles != 0).any(1)
    width = min(k, len(profiles))
    found = torch.zeros(len(profiles), k, dtype=torch.int64)
    for begin in range(0, len(unit), _BLOCK):
        alike = unit[begin : begin + _BLOCK] @ unit.t()
        rows = torch.arange(len(alike))
        alike[rows, begin + rows] = float("-inf")
        alike[:, ~known] = float("-inf")
        value, index = alike.topk(width, dim=1)
        index[value == float("-inf")] = 0
        found[begin : begin + _BLOCK, :width] = index
    found[~known] = 0
    return found
