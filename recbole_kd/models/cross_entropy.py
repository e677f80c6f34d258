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

LOWER_ROWS, LOWER_BYTES = 512, 128 << 20
"""Rows, and bytes, of a block at the most where products are in a lower precision: each block converts and
adds a gradient of all items, and the softmax goes through it in strips that fit the cache."""

ROWS_MULTIPLE, ITEMS_MULTIPLE = 32, 64
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
    return budget // (4 * n_items) // 16 * 16


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


class _Products:
    """The matrix products of one loss: logits of blocks of rows, and gradients from their shares.

    Attributes
    ----------
    block : float [R, V]
        Where the logits of a block are put: new memory for each costs as much as the product that fills it.
    strip : float [S, V]
        Of rows whose softmax is taken at a time, in full precision.
    """

    def __init__(self, h: Tensor, items: Tensor, learns: tuple[bool, bool]) -> None:
        self._h, self._items = h, items
        self._grad_h = torch.empty_like(h) if learns[0] else None
        # Items that learn nothing (a language model's words) can be many more than the targets.
        self._grad_items = torch.zeros_like(items) if learns[1] else None
        rows = max(MIN_ROWS, _rows_in_cache(len(items), h.device))
        self.block = self.strip = h.new_empty(min(rows, len(h)), len(items))

    def logits(self, rows: slice) -> Tensor:
        """In ``block``."""
        h = self._h[rows]
        return torch.mm(h, self._items.t(), out=self.block[: len(h)])

    def add_gradients(self, rows: slice, shares: Tensor) -> None:
        """Those of the rows, from what :func:`_shares` left."""
        if self._grad_h is not None:
            torch.mm(shares, self._items, out=self._grad_h[rows])
        if self._grad_items is not None:
            self._grad_items.addmm_(shares.t(), self._h[rows])

    def gradients(self, target: Tensor, grad_bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the summed loss: states, items, bias."""
        return self._grad_h, self._grad_items, grad_bias


class _LowerProducts:
    """As :class:`_Products` in fewer digits, with the items in columns: at 12,000 items half the time."""

    def __init__(self, h: Tensor, items: Tensor, learns: tuple[bool, bool], dtype: torch.dtype) -> None:
        self._h, self._items = h, items
        low_h, low_items, self._mean = lower(h, items, dtype)
        self._low_h = F.pad(low_h, (0, 0, 0, -len(h) % ROWS_MULTIPLE))
        self._columns = F.pad(low_items, (0, 0, 0, -len(items) % ITEMS_MULTIPLE)).t().contiguous()
        self._grad_h = torch.empty_like(h) if learns[0] else None
        self._grad_columns = h.new_zeros(h.shape[1], len(items)) if learns[1] else None
        n = self._columns.shape[1]
        cached = _rows_in_cache(n, h.device)
        most = min(LOWER_ROWS, LOWER_BYTES // (2 * n)) if h.device.type == "cpu" else cached
        blocks = max(1, -(-len(h) // max(MIN_ROWS, most)))
        # Blocks alike, so that none is left with a few rows.
        rows = -(-len(h) // (blocks * ROWS_MULTIPLE)) * ROWS_MULTIPLE
        self.block = self._low_h.new_empty(rows, n)
        self.strip = h.new_empty(min(max(ROWS_MULTIPLE, cached), rows), n)

    def logits(self, rows: slice) -> Tensor:
        """In ``block``, rows filled up included."""
        h = self._low_h[rows]
        return torch.mm(h, self._columns, out=self.block[: len(h)])

    def add_gradients(self, rows: slice, shares: Tensor) -> None:
        """Those of the logarithm's denominator; rows filled up are zero and add nothing."""
        if self._grad_h is not None:
            found = self._grad_h[rows]
            found.copy_((shares @ self._columns.t())[: len(found)])
        if self._grad_columns is not None:
            columns = self._low_h[rows].t().contiguous() @ shares
            self._grad_columns += columns[:, : len(self._items)]

    def gradients(self, target: Tensor, grad_bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the summed loss: states, items, bias."""
        if self._grad_h is None:
            return None, None, grad_bias
        of_items = None if self._grad_columns is None else self._grad_columns.t().contiguous()
        grads = (self._grad_h, of_items, grad_bias)
        subtract_targets(grads, self._h, self._items, target, self._mean)
        return grads


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, items: Tensor, bias: Tensor | None, target: Tensor, dtype: torch.dtype | None
    ) -> Tensor:
        learns = any(ctx.needs_input_grad), ctx.needs_input_grad[1]
        products: _Products | _LowerProducts
        if dtype is None or dtype == h.dtype:
            products = _Products(h, items, learns)
        else:
            products = _LowerProducts(h, items, learns, dtype)
        grad_bias = torch.zeros_like(bias) if learns[0] and bias is not None else None
        total = h.new_zeros(())
        step = max(1, len(products.block))
        for begin in range(0, len(target), step):
            rows = slice(begin, begin + step)
            logits = products.logits(rows)
            total -= _shares(logits, products.strip, target[rows], bias, len(items), grad_bias)
            products.add_gradients(rows, logits)
        ctx.grads, ctx.n = products.gradients(target, grad_bias), max(1, len(target))
        return total / ctx.n

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
