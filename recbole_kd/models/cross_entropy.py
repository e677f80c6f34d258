"""Softmax cross-entropy over the whole catalogue without holding ``[T, V]`` logits.

Loss and gradients are computed together, a block of rows at a time, so that memory is bounded whatever the
catalogue and a softmax finds its logits in the processor's cache. Exact: the same value and gradient as
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

LOWER_ROWS = 384
"""Rows of a block whose products are in a lower precision. The softmax goes through it in strips that fit the
cache; the products gain by more rows, since each converts and adds gradients of all items (1,700 to 300,000
items: about flat from 256 rows on, 1.3 to 2 times as long at 48)."""

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


def _rows_in_cache(n_items: int, device: torch.device) -> int:
    budget = BLOCK_BYTES if device.type == "cpu" else 256 * BLOCK_BYTES
    return budget // (4 * n_items) // ROWS_MULTIPLE * ROWS_MULTIPLE


def _buffers(h: Tensor, low_h: Tensor, low_items: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for the products of a block of rows, and for the exact softmax of a strip of them.

    Made once for all blocks: new memory for each costs as much as the product that fills it. In full
    precision a strip is the block itself.
    """
    n = len(low_items)
    rows = _rows_in_cache(n, h.device)
    if low_h.dtype == h.dtype:
        products = low_h.new_empty(min(max(MIN_ROWS, rows), len(low_h)), n)
        return products, products
    block = LOWER_ROWS if h.device.type == "cpu" else max(MIN_ROWS, rows)
    products = low_h.new_empty(min(block, len(low_h)), n)
    return products, h.new_empty(min(max(ROWS_MULTIPLE, rows), len(products)), n)


def _shares(
    logits: Tensor,
    strip: Tensor,
    target: Tensor,
    bias: Tensor | None,
    n_items: int,
    grad_bias: Tensor | None,
) -> Tensor:
    """Make logits shares of the catalogue, in place and strip by strip; sum the log shares of the targets.

    In full precision the targets' share is left less one, which is the gradient of the loss; otherwise
    :func:`subtract_targets` does that. Adds the gradient of the bias if there is one.
    """
    total = strip.new_zeros(())
    full = logits.dtype == strip.dtype
    for at in range(0, len(target), len(strip)):
        part, goal = logits[at : at + len(strip)], target[at : at + len(strip), None]
        exact = part if full else strip[: len(part)].copy_(part)
        if bias is not None:
            exact[:, :n_items] += bias
        exact[:, n_items:] = -torch.inf
        torch.softmax(exact, 1, out=exact)
        wanted = exact[: len(goal)].gather(1, goal)
        # Below the smallest normal number the loss is cut at 87; its gradient stays exact.
        total += wanted.clamp_min(torch.finfo(strip.dtype).tiny).log().sum()
        if full:
            exact.scatter_(1, goal, wanted - 1)
        else:
            part.copy_(exact)
        if grad_bias is not None:
            grad_bias += exact[: len(goal)].sum(0)[:n_items]
    return total


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
        products, strip = _buffers(h, low_h, low_items)
        step = max(1, len(products))
        for begin in range(0, len(target), step):
            rows = slice(begin, begin + step)
            block, goal = low_h[rows], target[rows]
            share = products[: len(block)]
            torch.mm(block, low_items.t(), out=share)
            total -= _shares(share, strip, goal, bias, len(items), grad_bias)
            if grad_h is None:
                continue
            if mean is None:
                torch.mm(share, items, out=grad_h[rows])
                if grad_items is not None:
                    grad_items.addmm_(share.t(), block)
            else:
                grad_h[rows] = (share @ low_items)[: len(goal)]
                if grad_items is not None:
                    grad_items += (share.t() @ block)[: len(items)]
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
