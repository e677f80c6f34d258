"""Softmax cross-entropy over the whole catalogue without holding ``[T, V]`` logits.

Loss and gradients are computed together, a block of rows at a time, so that a block of logits stays in
the processor's cache and memory is bounded whatever the catalogue. Exact: the same value and gradient as
``F.cross_entropy(h @ E.T + b, target)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 20
"""Logits of one block on a CPU; half of an L2 cache of 2 MiB (measured: flat between 0.5 and 1.5 MiB)."""


def _rows_per_block(n_items: int, device: torch.device) -> int:
    budget = BLOCK_BYTES if device.type == "cpu" else 256 * BLOCK_BYTES
    return max(64, budget // (4 * n_items))


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, items: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        n = max(1, len(target))
        need_grad = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h) if need_grad else None
        grad_items = torch.zeros_like(items) if need_grad else None
        grad_bias = torch.zeros_like(bias) if need_grad and bias is not None else None
        total = h.new_zeros(())
        items_t = items.t()
        for begin in range(0, len(target), _rows_per_block(len(items), h.device)):
            rows = slice(begin, begin + _rows_per_block(len(items), h.device))
            block, goal = h[rows], target[rows, None]
            logits = block @ items_t if bias is None else torch.addmm(bias, block, items_t)
            peak = logits.amax(1, keepdim=True)
            wanted = logits.gather(1, goal)
            logits.sub_(peak).exp_()
            norm = logits.sum(1, keepdim=True)
            total += (norm.log() + peak - wanted).sum()
            if grad_h is None or grad_items is None:
                continue
            logits.div_(norm * n)
            logits.scatter_add_(1, goal, goal.new_full(goal.shape, -1, dtype=logits.dtype) / n)
            torch.mm(logits, items, out=grad_h[rows])
            grad_items.addmm_(logits.t(), block)
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        ctx.grads = (grad_h, grad_items, grad_bias)
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_h, grad_items, grad_bias = ctx.grads
        return grad_h * grad, grad_items * grad, None if grad_bias is None else grad_bias * grad, None


def catalogue_cross_entropy(h: Tensor, items: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of ``target`` under ``softmax(h @ items.T + bias)``.

    Parameters
    ----------
    h : float [T, H]
    items : float [V, H]
        Item embeddings, row 0 (padding) included as RecBole does.
    target : int64 [T]
    bias : float [V], optional

    Returns
    -------
    float scalar; 0 if ``T`` is 0
    """
    loss: Tensor = _CatalogueCrossEntropy.apply(h, items, bias, target)  # type: ignore[no-untyped-call]
    return loss
