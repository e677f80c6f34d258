"""The base of systems that are laid on a backbone, and the parts that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.side import SideInputs


class System:
    """Put left of a student class; ``attach_system`` is called once, before training.

    Whatever a system adds lives in ``self.system`` (an ``nn.Module``). Its initial values come from a
    stream of their own, so that with its inputs zeroed a system trains exactly as the plain backbone does.
    Vectors that are read, not learned, are buffers outside the state dict.
    """

    backbones: ClassVar[tuple[str, ...]] = ("SASRec", "GRU4Rec", "BERT4Rec")
    system: nn.Module

    def attach_system(self, params: Mapping[str, Any], side: SideInputs, seed: int) -> None:
        """Build the system's modules; the global random stream is left as it was.

        Raises
        ------
        SpecError
            The vectors that the system reads are not there, or do not fit its parameters.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build_system(params, side)

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Set ``self.system``."""
        raise NotImplementedError


class ItemTableSystem(System):
    """A system that computes the item vectors: once per training step, shared by input and output."""

    _step_table: Tensor | None = None

    def fused_items(self, items: Tensor) -> Tensor:
        """Vectors of the real items [n_items, E], from the id table's rows of the same shape."""
        raise NotImplementedError

    def item_weights(self) -> Tensor:
        """Fused item vectors; tokens after the items (BERT4Rec's mask) keep their own."""
        if self._step_table is not None:
            return self._step_table
        model: Any = self
        table = model.item_embedding.weight
        # In full precision: what all items share would learn from rounding errors (cross_entropy.lower).
        with torch.autocast(table.device.type, enabled=False):
            fused = self.fused_items(table[: model.n_items])
        return fused if len(table) == model.n_items else torch.cat([fused, table[model.n_items :]])

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Losses of the backbone over the table of this step."""
        self._step_table = self.item_weights()
        try:
            losses: tuple[Tensor, Tensor | None] = super().sequence_losses(  # type: ignore[misc]
                batch, dropout, rng, distil=distil
            )
            return losses
        finally:
            self._step_table = None


class Read(nn.Module):
    """Vectors that a system reads and does not learn, with the rows that are known.

    Parameters
    ----------
    vectors : float [N, D]
    """

    vectors: Tensor
    known: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.float(), persistent=False)
        self.register_buffer("known", (vectors != 0).any(1), persistent=False)


def required(vectors: Tensor | None, what: str, system: str) -> Tensor:
    """``vectors``, or an error that names what is missing."""
    if vectors is None:
        raise SpecError(f"system {system}: needs {what} vectors; name them under 'inputs'")
    return vectors


def principal_components(vectors: Tensor, n: int) -> Tensor:
    """First ``n`` principal components of the known rows; zeros elsewhere and beyond the rank.

    Parameters
    ----------
    vectors : float [N, D]
        A row of zeros is unknown.
    n : int

    Returns
    -------
    float32 [N, n]
    """
    known = (vectors != 0).any(1)
    rows = vectors[known].double()
    out = torch.zeros(len(vectors), n)
    if len(rows) < 2:
        return out
    rows = rows - rows.mean(0)
    _, values, axes = torch.linalg.svd(rows, full_matrices=False)
    keep = min(n, int((values > 1e-9 * values[0]).sum()))
    axes = axes[:keep]
    # The sign of an axis is arbitrary; fix it so that runs agree.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    out[known, :keep] = (rows @ axes.T).float()
    return out


def mlp(sizes: list[int], activation: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])
