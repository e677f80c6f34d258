"""Several students of one shape as one model: every parameter has a leading axis of models.

A small recommender leaves a GPU idle; S of them side by side make S times larger products. The forward pass
is that of the single backbones, written over ``[S, B, L, H]`` with batched products; dropout draws every
model's masks from its own stream in its own order and shapes, so that each model trains as it would alone, up
to the order in which sums are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.models.batch import Batch, segment_mask
from recbole_kd.models.cross_entropy import lower
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.transformer import _ACTIVATIONS

LOGITS_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class StackedBatch:
    """Batches of S models, padded to one shape.

    Attributes
    ----------
    item_seq, position, segment : int64 [S, B, L]
    shapes : list of (B_s, L_s)
        What every model's own batch measures.
    index : int64 [S, T]
        Positions with a target, counted in the padded grid; 0 where a model has fewer than T.
    target : int64 [S, T]
    weight : float [S, T]
        1 / T_s, 0 where there is none: the mean of every model's own loss.
    """

    item_seq: Tensor
    position: Tensor
    segment: Tensor
    shapes: list[tuple[int, int]]
    index: Tensor
    target: Tensor
    weight: Tensor

    @classmethod
    def of(cls, batches: Sequence[Batch], device: str) -> StackedBatch:
        """Lay batches side by side; they come from the host, so nothing waits for the device."""
        shapes = [(int(b.item_seq.shape[0]), int(b.item_seq.shape[1])) for b in batches]
        size, height, width = len(batches), max(h for h, _ in shapes), max(w for _, w in shapes)
        grids = {n: torch.zeros(size, height, width, dtype=torch.int64) for n in ("item_seq", "position")}
        grids["segment"] = torch.stack([torch.full((height, width), len(b.user)) for b in batches])
        at = [b.target > 0 for b in batches]
        most = max(int(a.sum()) for a in at)
        index, target = (torch.zeros(size, most, dtype=torch.int64) for _ in range(2))
        weight = torch.zeros(size, most)
        for s, (batch, (h, w)) in enumerate(zip(batches, shapes, strict=True)):
            for name, grid in grids.items():
                grid[s, :h, :w] = getattr(batch, name)
            row, column = at[s].nonzero(as_tuple=True)
            n = len(row)
            index[s, :n], target[s, :n] = row * width + column, batch.target[row, column]
            weight[s, :n] = 1.0 / max(1, n)
        moved = (x.to(device, non_blocking=True) for x in (index, target, weight))
        return cls(**{k: g.to(device, non_blocking=True) for k, g in grids.items()}, shapes=shapes,
                   **dict(zip(("index", "target", "weight"), moved, strict=True)))  # fmt: skip


class StackedDropout:
    """Every model's masks from its own stream, as it would draw them alone.

    Parameters
    ----------
    streams : one per model
    """

    def __init__(self, streams: Sequence[ByteDropout]) -> None:
        self._streams = streams

    def __call__(self, x: Tensor, p: float, fill: Callable[[Tensor, int], tuple[torch.Size, Any]]) -> Tensor:
        """Apply dropout to ``x`` [S, ...].

        Parameters
        ----------
        fill : callable
            ``(mask of model s in the padded shape, s) -> (shape drawn alone, where it goes)``; the second is
            an index of the padded mask.
        """
        if p <= 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, p)
        keep, scale = torch.ones(x.shape, dtype=torch.bool), 1.0
        for s, stream in enumerate(self._streams):
            shape, place = fill(keep[s], s)
            keep[s][place], scale = stream.keep(shape, p)
        return x * (keep * scale)


def _linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Linear layer of every model on its own ``x`` [S, ..., in]."""
    flat = x.flatten(1, -2)
    out = torch.baddbmm(p[f"{name}.bias"][:, None], flat, p[f"{name}.weight"].transpose(1, 2))
    return out.view(*x.shape[:-1], -1)


def _norm(p: Parameters, name: str, x: Tensor, eps: float) -> Tensor:
    shape = (len(x), *([1] * (x.dim() - 2)), x.shape[-1])
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(p[f"{name}.bias"].view(shape), normed, p[f"{name}.weight"].view(shape))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` [S, ...] of every model's table [S, V, E]."""
    offset = torch.arange(len(table), device=table.device) * table.shape[1]
    return F.embedding(index + offset.view(-1, *[1] * (index.dim() - 1)), table.flatten(0, 1))


def _inputs(p: Parameters, batch: StackedBatch) -> Tensor:
    """Item vectors; padding's is read, but learns nothing here (``padding_idx`` of the single models)."""
    x = _rows(p["item_embedding.weight"], batch.item_seq)
    return torch.where((batch.item_seq == 0)[..., None], x.detach(), x)


class _Masks:
    """Where the masks of a batch go: of a grid, of attention weights."""

    def __init__(self, batch: StackedBatch) -> None:
        self._shapes = batch.shapes

    def grid(self, mask: Tensor, s: int) -> tuple[torch.Size, Any]:
        """[B, L, H]."""
        h, w = self._shapes[s]
        return torch.Size((h, w, mask.shape[-1])), (slice(h), slice(w))

    def attention(self, mask: Tensor, s: int) -> tuple[torch.Size, Any]:
        """[B, heads, L, L]; every row of these models is of full width."""
        h, _ = self._shapes[s]
        return torch.Size((h, *mask.shape[1:])), (slice(h),)


def _transformer(p: Parameters, model: Any, batch: StackedBatch, drop: StackedDropout) -> Tensor:
    """Output of the last block, [S, B, L, H]."""
    size, height, width = batch.item_seq.shape
    causal, eps = bool(model.shift), float(model.layer_norm_eps)
    where = _Masks(batch)
    mask = segment_mask(batch.segment.flatten(0, 1), causal=causal).view(size, height, 1, width, width)
    hidden, attn = float(model.hidden_dropout_prob), float(model.attn_dropout_prob)
    if attn > 0:
        # Added to the scores, as in the single models, so that their softmax keeps the digits of the mask.
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))
    x = _inputs(p, batch) + _rows(p["position_embedding.weight"], batch.position)
    x = drop(_norm(p, "LayerNorm", x, eps), hidden, where.grid)
    heads = int(model.n_heads)
    for k in range(int(model.n_layers)):
        name = f"trm_encoder.layer.{k}"
        attention, ffn = f"{name}.multi_head_attention", f"{name}.feed_forward"
        query, key, value = (
            _linear(p, f"{attention}.{part}", x).view(size, height, width, heads, -1).transpose(2, 3)
            for part in ("query", "key", "value")
        )
        if attn > 0:
            scores = query @ key.transpose(-1, -2)
            weights = torch.add(mask, scores, alpha=1.0 / math.sqrt(query.shape[-1])).softmax(-1)
            context = drop(weights, attn, where.attention) @ value
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        context = context.transpose(2, 3).flatten(3)
        y = drop(_linear(p, f"{attention}.dense", context), hidden, where.grid) + x
        y = _norm(p, f"{attention}.LayerNorm", y, eps)
        inner = _ACTIVATIONS[model.hidden_act](_linear(p, f"{ffn}.dense_1", y))
        z = drop(_linear(p, f"{ffn}.dense_2", inner), hidden, where.grid) + y
        x = _norm(p, f"{ffn}.LayerNorm", z, eps)
    return x


def _gru(p: Parameters, model: Any, batch: StackedBatch, drop: StackedDropout) -> Tensor:
    """Output of the last GRU layer, [S, B, L, H]; gates in torch's order (reset, update, new), no biases."""
    x = drop(_inputs(p, batch), float(model.dropout_prob), _Masks(batch).grid)
    for k in range(int(model.num_layers)):
        into, own = (p[f"gru_layers.weight_{part}_l{k}"].transpose(1, 2) for part in ("ih", "hh"))
        gates = torch.bmm(x.flatten(1, 2), into).view(*x.shape[:3], -1)
        own = own.to(gates.dtype)  # under autocast: once, and not at every position
        # Gates may be of fewer digits; the state that goes from position to position keeps its own.
        state = x.new_zeros(len(x), x.shape[1], own.shape[1])
        outputs = []
        for t in range(x.shape[2]):
            r, z, n = gates[:, :, t].chunk(3, -1)
            own_r, own_z, own_n = torch.bmm(state, own).chunk(3, -1)
            update = torch.sigmoid(z + own_z)
            new = torch.tanh(n + torch.sigmoid(r + own_r) * own_n)
            state = torch.lerp(new.to(state.dtype), state, update.to(state.dtype))
            outputs.append(state)
        x = torch.stack(outputs, 2)
    return x


def stacked_losses(
    p: Parameters, model: Any, batch: StackedBatch, drop: StackedDropout, dtype: torch.dtype | None
) -> Tensor:
    """Mean cross-entropy of every model, [S].

    Parameters
    ----------
    p : dict of str to [S, ...]
        Stacked parameters by their names in ``model``.
    model : one of the models
        For its class and hyper-parameters; its own weights are not read.
    batch : StackedBatch
    drop : StackedDropout
    dtype : torch.dtype or None
        Of the softmax's products.
    """
    recurrent = not model.packed
    x = (_gru if recurrent else _transformer)(p, model, batch, drop)
    flat = x.flatten(1, 2)
    state = flat.gather(1, batch.index[..., None].expand(-1, -1, flat.shape[-1]))
    items, bias = p["item_embedding.weight"][:, : model.n_items], None
    if recurrent:
        state = _linear(p, "dense", state)
    elif not model.shift:
        state = _norm(p, "output_ln", F.gelu(_linear(p, "output_ffn", state)), float(model.output_ln.eps))
        bias = p["output_bias"]
    # Autocast is over here: softmax and losses have a precision of their own.
    with torch.autocast(state.device.type, enabled=False):
        state = state.to(items.dtype)
        losses: Tensor = _StackedCrossEntropy.apply(state, items, bias, batch.target, batch.weight, dtype)
    return losses


class _StackedCrossEntropy(torch.autograd.Function):
    """As ``catalogue_cross_entropy`` for S models: loss and gradients together, a block of rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        items: Tensor,
        bias: Tensor | None,
        target: Tensor,
        weight: Tensor,
        dtype: torch.dtype | None,
    ) -> Tensor:
        budget = LOGITS_BYTES.get(h.device.type, LOGITS_BYTES["cpu"])
        step = max(16, budget // (4 * len(h) * items.shape[1]))
        low_h, low_items, mean = lower(h, items, dtype)
        grad_h, grad_items = torch.empty_like(h), torch.zeros_like(items)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        total = h.new_zeros(len(h))
        for begin in range(0, h.shape[1], step):
            rows = slice(begin, begin + step)
            goal, block, share_of = target[:, rows, None], low_h[:, rows], weight[:, rows]
            logits = torch.bmm(block, low_items.transpose(1, 2)).to(h.dtype)
            if bias is not None:
                logits += bias[:, None]
            share = torch.softmax(logits, 2)
            wanted = share.gather(2, goal)
            log = wanted.clamp_min(torch.finfo(h.dtype).tiny).log().squeeze(2)
            total -= (log * share_of).sum(1)
            if mean is None:
                share.scatter_(2, goal, wanted - 1)
            share.mul_(share_of[..., None])
            if grad_bias is not None:
                grad_bias += share.sum(1)
            low = share.to(low_h.dtype)
            grad_h[:, rows] = torch.bmm(low, low_items)
            grad_items += torch.bmm(low.transpose(1, 2), block)
        if mean is not None:
            place = target[..., None].expand_as(h)
            grad_h -= (items.gather(1, place) - mean) * weight[..., None]
            grad_items.scatter_add_(1, place, h * -weight[..., None])
            grad_items -= grad_items.mean(1, keepdim=True)
            if grad_bias is not None:
                grad_bias.scatter_add_(1, target, -weight)
        ctx.grads = grad_h, grad_items, grad_bias
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_items, grad_bias = ctx.grads
        scale = grad[:, None, None]
        bias = None if grad_bias is None else grad_bias * grad[:, None]
        return grad_h * scale, grad_items * scale, bias, None, None, None
