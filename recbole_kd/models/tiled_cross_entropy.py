"""The catalogue softmax in tiles of tokens and items, where even one block of rows is large.

As :func:`recbole_kd.models.cross_entropy.catalogue_cross_entropy`, exact, but its logits are bounded in both
directions: the normaliser is summed tile by tile (Milakov and Gimelshein, 2018), and the logits are computed
a second time for the gradient. One matrix product more in exchange for memory that knows no catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recbole_kd.models.cross_entropy import MIN_ROWS, catalogue_cross_entropy, lower, subtract_targets

TILE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Logits held at a time."""
ROWS = 512
"""Tokens of a tile."""


def exact_cross_entropy(
    h: Tensor, items: Tensor, target: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean cross-entropy over the whole catalogue: in blocks of rows where these fit, else in tiles.

    Parameters are those of ``catalogue_cross_entropy``.
    """
    budget = TILE_BYTES.get(h.device.type, TILE_BYTES["cpu"])
    if 4 * MIN_ROWS * len(items) <= 16 * budget:
        return catalogue_cross_entropy(h, items, target, bias, dtype=dtype)
    return tiled_cross_entropy(h, items, target, bias, dtype=dtype, columns=max(1, budget // (4 * ROWS)))


def tiled_cross_entropy(
    h: Tensor,
    items: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    rows: int = ROWS,
    columns: int,
) -> Tensor:
    """As ``catalogue_cross_entropy``, never holding more than ``rows * columns`` logits.

    Parameters
    ----------
    h : float [T, H]
    items : float [V, H]
    target : int64 [T]
    bias : float [V], optional
    dtype : torch.dtype, optional
        Of the matrix products.
    rows, columns : int
        Size of a tile.

    Returns
    -------
    float scalar; 0 if ``T`` is 0
    """
    loss: Tensor = _Tiled.apply(h, items, bias, target, dtype, rows, columns)
    return loss


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        items: Tensor,
        bias: Tensor | None,
        target: Tensor,
        dtype: torch.dtype | None,
        rows: int,
        columns: int,
    ) -> Tensor:
        need_grad = any(ctx.needs_input_grad)
        grad_h = torch.zeros_like(h) if need_grad else None
        grad_items = torch.zeros_like(items) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if need_grad and bias is not None else None
        total = h.new_zeros(())
        low_h, low_items, mean = lower(h, items, dtype)
        for begin in range(0, len(target), rows):
            some = slice(begin, begin + rows)
            block, goal = low_h[some], target[some]
            normaliser = _log_normaliser(block, low_items, bias, columns, h.dtype)
            wanted = (block * low_items[goal]).sum(1, dtype=h.dtype)
            total += (normaliser - (wanted if bias is None else wanted + bias[goal])).sum()
            if grad_h is None:
                continue
            for part, logits in _tiles(block, low_items, bias, columns, h.dtype):
                share = logits.sub_(normaliser[:, None]).exp_()
                if grad_bias is not None:
                    grad_bias[part] += share.sum(0)
                low = share.to(low_h.dtype)
                grad_h[some] += low @ low_items[part]
                if grad_items is not None:
                    grad_items[part] += low.t() @ block
        if grad_h is not None:
            subtract_targets((grad_h, grad_items, grad_bias), h, items, target, mean)
        n = max(1, len(target))
        ctx.grads, ctx.n = (grad_h, grad_items, grad_bias), n
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad / ctx.n
        grads = [None if g is None else g * grad for g in ctx.grads]
        return (*grads, None, None, None, None)


def _tiles(
    h: Tensor, items: Tensor, bias: Tensor | None, columns: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    for begin in range(0, len(items), columns):
        part = slice(begin, begin + columns)
        logits = (h @ items[part].t()).to(dtype)
        yield part, logits if bias is None else logits.add_(bias[part])


def _log_normaliser(
    h: Tensor, items: Tensor, bias: Tensor | None, columns: int, dtype: torch.dtype
) -> Tensor:
    """Log of the softmax's denominator of every row."""
    found: Tensor | None = None
    for _, logits in _tiles(h, items, bias, columns, dtype):
        tile = logits.logsumexp(1)
        found = tile if found is None else torch.logaddexp(found, tile)
    assert found is not None
    return found
