"""Softmax cross-entropy over the whole catalogue without holding ``[T, V]`` logits.

Loss and gradients are computed together, a block of rows at a time, so that a block of logits stays in
the processor's cache and memory is bounded whatever the catalogue. Exact: the same value and gradient as
``F.cross_entropy(h @ E.T + b, target)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 1 << 20
"""Logits of one block on a CPU; half of an L2 cache of 2 MiB (measured: flat between 0.5 and 1.5 MiB)."""

MIN_ROWS = 48
"""Rows of a block at the least: with fewer a matrix product loses more than the cache wins."""

ROWS_MULTIPLE, ITEMS_MULTIPLE = 16, 64
"""Where products are in a lower precision, rows and items are filled up with zeros to multiples of these. The
processor's library multiplies whole tiles faster, and it makes and keeps a kernel for every shape that it
meets, while the number of targets changes with every step."""


def resolve_precision(name: str, device: str) -> torch.dtype:
    """Type in which the products of the softmax are computed.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16"}
        ``auto``: bfloat16 where the processor multiplies it natively (twice as fast on AVX512-BF16), else
        float32. Softmax, loss and accumulated gradients are float32 in either case.
    device : str
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if torch.device(device).type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported()
    else:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def _rows_per_block(n_items: int, device: torch.device) -> int:
    budget = BLOCK_BYTES if device.type == "cpu" else 256 * BLOCK_BYTES
    return max(MIN_ROWS, budget // (4 * n_items) // ROWS_MULTIPLE * ROWS_MULTIPLE)


def _softmax(h: Tensor, items: Tensor, bias: Tensor | None, n: int, products: Tensor, out: Tensor) -> Tensor:
    """Softmax of ``h @ items.T + bias`` over the first ``n`` items, 0 elsewhere, in ``out``."""
    torch.mm(h, items.t(), out=products)
    if out is not products:
        out.copy_(products)
    if bias is not None:
        out[:, :n].add_(bias)
    out[:, n:] = -torch.inf
    return torch.softmax(out, 1, out=out)


def lower(h: Tensor, items: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """States and item vectors in the type of the products, and the mean item vector if that is a lower one.

    Products in fewer digits need three things. Without them parameters that all items share, such as an
    adaptor of their texts, learn from errors: the true gradient of what all items have in common is zero, and
    Adam makes whole steps of whatever is left there.

    1. The mean is taken off the item vectors. It moves all logits of a row alike, so that neither softmax nor
       gradients change, but next to it the differences between items would be rounded away.
    2. The target's -1 in ``share - 1`` is not rounded (:func:`subtract_targets`): next to it the target's own
       share would vanish, in the same direction in every row.
    3. The mean is taken off the gradient of the item vectors: all of it is error.

    Parameters
    ----------
    h : float [..., T, H]
    items : float [..., V, H]
    dtype : torch.dtype or None

    Returns
    -------
    (h, items, mean [..., 1, H] or None)
    """
    if dtype is None or dtype == h.dtype:
        return h, items, None
    mean = items.mean(-2, keepdim=True)
    return h.to(dtype), (items - mean).to(dtype), mean


def subtract_targets(
    grads: tuple[Tensor, Tensor | None, Tensor | None],
    h: Tensor,
    items: Tensor,
    target: Tensor,
    mean: Tensor | None,
) -> None:
    """Make gradients of the denominators' log those of the loss, in place; ``mean`` is :func:`lower`'s."""
    grad_h, grad_items, grad_bias = grads
    grad_h -= items[target] if mean is None else items[target] - mean
    if grad_bias is not None:
        grad_bias.index_add_(0, target, torch.ones_like(h[:, 0]), alpha=-1)
    if grad_items is None:
        return
    grad_items.index_add_(0, target, h, alpha=-1)
    if mean is not None:
        grad_items -= grad_items.mean(0)


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, items: Tensor, bias: Tensor | None, target: Tensor, dtype: torch.dtype | None
    ) -> Tensor:
        n = max(1, len(target))
        need_grad = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h) if need_grad else None
        # Items that learn nothing (a language model's words) can be many more than the targets.
        grad_items = torch.zeros_like(items) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if need_grad and bias is not None else None
        total = h.new_zeros(())
        low_h, low_items, mean = lower(h, items, dtype)
        if mean is not None:
            low_h = F.pad(low_h, (0, 0, 0, -len(target) % ROWS_MULTIPLE))
            low_items = F.pad(low_items, (0, 0, 0, -len(items) % ITEMS_MULTIPLE))
        step = _rows_per_block(len(items), h.device)
        # One buffer for all blocks: new memory for each costs as much as the product that fills it.
        products = low_h.new_empty(min(step, len(low_h)), len(low_items))
        shares = products if mean is None else h.new_empty(products.shape)
        for begin in range(0, len(target), step):
            rows = slice(begin, begin + step)
            goal, block = target[rows, None], low_h[rows]
            low, filled = products[: len(block)], shares[: len(block)]
            share = _softmax(block, low_items, bias, len(items), low, filled)[: len(goal)]
            wanted = share.gather(1, goal)
            # Below the smallest normal number the loss is cut at 87; its gradient stays exact.
            total -= wanted.clamp_min(torch.finfo(h.dtype).tiny).log().sum()
            if grad_h is None:
                continue
            if mean is None:
                share.scatter_(1, goal, wanted - 1)
                torch.mm(share, items, out=grad_h[rows])
                if grad_items is not None:
                    grad_items.addmm_(share.t(), block)
            else:
                low.copy_(filled)
                grad_h[rows] = (low @ low_items)[: len(goal)]
                if grad_items is not None:
                    grad_items += (low.t() @ block)[: len(items)]
            if grad_bias is not None:
                grad_bias += share.sum(0)[: len(items)]
        if mean is not None and grad_h is not None:
            subtract_targets((grad_h, grad_items, grad_bias), h, items, target, mean)
        ctx.grads, ctx.n = (grad_h, grad_items, grad_bias), n
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_items, grad_bias = ctx.grads
        grad = grad / ctx.n
        of_items, bias = (None if g is None else g * grad for g in (grad_items, grad_bias))
        return grad_h * grad, of_items, bias, None, None


def catalogue_cross_entropy(
    h: Tensor, items: Tensor, target: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean cross-entropy of ``target`` under ``softmax(h @ items.T + bias)``.

    Parameters
    ----------
    h : float [T, H]
    items : float [V, H]
        Item embeddings, row 0 (padding) included as RecBole does.
    target : int64 [T]
    bias : float [V], optional
    dtype : torch.dtype, optional
        Type of the three matrix products, default that of ``h``; :func:`lower` says what a lower one takes.
        With bfloat16 the gradients are off by about 0.3 % (relative norm).

    Returns
    -------
    float scalar; 0 if ``T`` is 0
    """
    loss: Tensor = _CatalogueCrossEntropy.apply(h, items, bias, target, dtype)
    return loss
