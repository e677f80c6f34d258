"""Projections between the student's and the teacher's space; on either side, learned or frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_kd.models.names import find

Projection = Callable[[int, int, int, torch.Generator], nn.Module]


def linear(n_in: int, n_out: int, hidden: int, generator: torch.Generator) -> nn.Linear:
    """y = W x + b, W ~ N(0, 1 / n_in), b = 0 (Severin et al., ECIR 2026: the up- and down-scale maps).

    Frozen it is a random projection, which keeps distances (Johnson and Lindenstrauss, 1984).
    """
    # skip_init: nn.Linear's own initialisation would draw from the student's global stream.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with torch.no_grad():
        layer.weight.normal_(0.0, n_in**-0.5, generator=generator)
        layer.bias.zero_()
    return layer


class Mlp(nn.Module):
    """y = W_2 GELU(W_1 x + b_1) + b_2, a projector as in Chen et al. (SimCLR, ICML 2020)."""

    def __init__(self, n_in: int, n_out: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(n_in, hidden, 0, generator)
        self.second = linear(hidden, n_out, 0, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_out]."""
        out: Tensor = self.second(nn.functional.gelu(self.first(x)))
        return out


PROJECTIONS: dict[str, Projection] = {
    "linear": linear,
    "mlp": Mlp,
}
"""name -> builder (n_in, n_out, hidden width, generator); a new one is one function or class and one line."""


def make_projection(
    name: str, n_in: int, n_out: int, *, hidden: int, frozen: bool, generator: torch.Generator
) -> nn.Module:
    """Build a projection.

    Parameters
    ----------
    name : str
        Key of :data:`PROJECTIONS`.
    n_in, n_out : int
    hidden : int
        Width inside an ``mlp``.
    frozen : bool
        Keep the initial weights.
    generator : torch.Generator
        Source of the initial weights: the head has a stream of its own.

    Raises
    ------
    SpecError
        No projection of that name.
    """
    module = find(PROJECTIONS, name, "distill.projector")(n_in, n_out, hidden, generator)
    return module.requires_grad_(not frozen)
