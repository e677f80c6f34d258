"""What happens where the gradients of recommendation and distillation conflict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_kd.models.names import find


@dataclass(frozen=True)
class Agreement:
    """How two gradients lie to each other.

    Attributes
    ----------
    cosine : float scalar
        0 if one of them is 0.
    conflict : float scalar
        1 if the cosine is negative, else 0.
    """

    cosine: Tensor
    conflict: Tensor


Pair = tuple[list[Tensor], list[Tensor], Agreement]
Resolve = Callable[[list[Tensor], list[Tensor]], Pair]


def watch(rec: list[Tensor], distil: list[Tensor]) -> Pair:
    """Measure only: both gradients as they are."""
    return rec, distil, _agreement(rec, distil)[0]


def pcgrad(rec: list[Tensor], distil: list[Tensor]) -> Pair:
    """PCGrad (Yu et al., NeurIPS 2020, algorithm 1) for two tasks.

    If g_1 . g_2 < 0, each gradient loses its part along the other: g_1' = g_1 - (g_1 . g_2 / ||g_2||^2) g_2
    and g_2' = g_2 - (g_2 . g_1 / ||g_1||^2) g_1, both from the unchanged other one; the step is their sum.
    With two tasks the order, random in the paper, does not matter.
    """
    agreement, dot, rec_square, distil_square = _agreement(rec, distil)
    along = torch.where(dot < 0, dot, 0.0)
    zero = torch.zeros_like(dot)
    from_rec = torch.where(distil_square > 0, along / distil_square, zero)
    from_distil = torch.where(rec_square > 0, along / rec_square, zero)
    new_rec = [a - from_rec * b for a, b in zip(rec, distil, strict=True)]
    new_distil = [b - from_distil * a for a, b in zip(rec, distil, strict=True)]
    return new_rec, new_distil, agreement


def _agreement(rec: list[Tensor], distil: list[Tensor]) -> tuple[Agreement, Tensor, Tensor, Tensor]:
    """Cosine, inner product and squared norms over all parameters as one vector."""
    dot = torch.stack([(a * b).sum() for a, b in zip(rec, distil, strict=True)]).sum()
    squares = [torch.stack([g.square().sum() for g in side]).sum() for side in (rec, distil)]
    norms = (squares[0] * squares[1]).sqrt()
    cosine = torch.where(norms > 0, dot / norms, 0.0)
    return Agreement(cosine, (dot < 0).to(dot.dtype)), dot, squares[0], squares[1]


CONFLICTS: dict[str, Resolve | None] = {
    "ignore": None,
    "watch": watch,
    "pcgrad": pcgrad,
}
"""name -> (g_rec, g_distil) -> the two to be added, or None: one backward pass over the summed loss."""


def get_conflict(name: str) -> Resolve | None:
    """Return the treatment called ``name``.

    Raises
    ------
    SpecError
    """
    return find(CONFLICTS, name, "distill.gradient_conflict")


def backward_apart(
    rec: Tensor, distil: Tensor, shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter], resolve: Resolve
) -> Agreement:
    """Set ``grad`` of every parameter from two losses whose gradients are resolved first.

    Parameters
    ----------
    rec, distil : scalar
        The two terms of the loss, factors included.
    shared : sequence of Parameter
        The student's. They are what conflicts.
    own : sequence of Parameter
        Of the head; they have a gradient of ``distil`` only.
    resolve : callable
        Value of :data:`CONFLICTS`.
    """
    g_rec = torch.autograd.grad(rec, shared, retain_graph=True, allow_unused=True)
    g_distil = torch.autograd.grad(distil, [*shared, *own], allow_unused=True)
    head = g_distil[len(shared) :]
    pairs = zip(shared, g_rec, g_distil[: len(shared)], strict=True)
    used = [(p, a, b) for p, a, b in pairs if a is not None or b is not None]
    first = [torch.zeros_like(p) if a is None else a for p, a, _ in used]
    second = [torch.zeros_like(p) if b is None else b for p, _, b in used]
    first, second, agreement = resolve(first, second)
    for (parameter, _, _), a, b in zip(used, first, second, strict=True):
        parameter.grad = a + b
    for parameter, gradient in zip(own, head, strict=True):
        parameter.grad = gradient
    return agreement
