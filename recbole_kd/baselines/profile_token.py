"""The profile vector as the first token of the sequence: what distillation tries to reach without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.baselines.system import Read, System, required
from recbole_kd.models.batch import Batch
from recbole_kd.models.side import SideInputs

PROFILE = -1
"""Stands in ``item_seq`` where the profile goes."""


class ProfileToken(System):
    """x_0 = P z_u before the items of every piece of a user's history, at training and when serving.

    The token shares position 0 with the first item and is seen by every later one; a user without a profile
    has no token, so with all profiles zeroed the model is the plain backbone.
    """

    def build_system(self, params: Mapping[str, Any], side: SideInputs) -> None:
        """Projection to the item space, at the scale of the item vectors."""
        model: Any = self
        users = required(side.users, "profile", "profile-token")
        table = model.item_embedding.weight.detach()
        project = nn.Linear(users.shape[1], table.shape[1])
        self.system = nn.ModuleDict({"users": Read(users), "project": project})
        spread = float(project(users.float()).detach()[1:].std())
        if spread > 0:
            for parameter in project.parameters():
                parameter.data *= float(params["scale"]) * float(table[1:].std()) / spread

    def prepare(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The backbone's own preparation, then a token before every piece."""
        prepared: Batch = super().prepare(batch, rng)  # type: ignore[misc]
        return self._with_tokens(prepared)

    def serve_batch(
        self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None
    ) -> tuple[Batch, Tensor]:
        """The backbone's own layout with a token at column 0 of users who have a profile."""
        assert user is not None
        batch, at = super().serve_batch(item_seq, item_seq_len, user)  # type: ignore[misc]
        system: Any = self.system
        return self._with_tokens(batch), at + system["users"].known[user].to(at.dtype)

    def input_vectors(self, batch: Batch) -> Tensor:
        """Items as ever, projected profiles where the tokens are."""
        token = batch.item_seq == PROFILE
        x: Tensor = super().input_vectors(  # type: ignore[misc]
            replace(batch, item_seq=batch.item_seq.masked_fill(token, 0))
        )
        system: Any = self.system
        users = batch.user[batch.segment[token]]
        return x.masked_scatter(
            token[..., None], system["project"](system["users"].vectors[users]).to(x.dtype)
        )

    def _with_tokens(self, batch: Batch) -> Batch:
        system: Any = self.system
        known = system["users"].known
        # Batches are prepared on the host where a device gets many at once.
        return insert_tokens(batch, known[batch.user.to(known.device)].to(batch.item_seq.device))


def insert_tokens(batch: Batch, wanted: Tensor) -> Batch:
    """Shift every row to make room for one token before each wanted piece.

    Parameters
    ----------
    batch : Batch
    wanted : bool [P]
        Pieces that get a token.

    Returns
    -------
    Batch
        As wide as its fullest row; ``item_seq`` is :data:`PROFILE` and ``target`` 0 at a token, which
        belongs to the piece and has position 0.
    """
    if not bool(wanted.any()):
        return batch
    n_pieces, device = len(batch.length), batch.item_seq.device
    real = batch.segment < n_pieces
    first = real & (batch.position == 0)
    piece = batch.segment.clamp_max(n_pieces - 1)
    opens = first & wanted[piece]
    moved = torch.arange(batch.item_seq.shape[1], device=device) + opens.cumsum(1)
    width = int(torch.where(real, moved, -1).max()) + 1
    row = torch.arange(len(real), device=device)[:, None].expand_as(real)
    fields: dict[str, Any] = {}
    empty = {"item_seq": 0, "target": 0, "position": 0, "segment": n_pieces}
    for name, fill in empty.items():
        old: Tensor = getattr(batch, name)
        new = old.new_full((len(old), max(width, old.shape[1])), fill)
        new[row[real], moved[real]] = old[real]
        fields[name] = new
    at = row[opens], moved[opens] - 1
    fields["item_seq"][at] = PROFILE
    fields["segment"][at] = piece[opens]
    return replace(batch, **fields)
