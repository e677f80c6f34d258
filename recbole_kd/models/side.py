"""What a model may know besides the interactions: item vectors, user vectors, how many users there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Attributes = Sequence[Sequence[tuple[str, str]]]
"""By item id: keys and values of what an item says about itself."""


@dataclass(frozen=True)
class SideInputs:
    """Vectors by id; what a system does not ask for is ``None``.

    Attributes
    ----------
    n_users : int
        User ids, padding included.
    items : float32 [n_items, D] or None
        Item-text vectors; a row of zeros is an item without text.
    users : float32 [n_users, D] or None
        Profile vectors; a row of zeros is a user without a profile.
    manifests : mapping
        What the writers of the two files say about encoder and reduction, under ``items`` and ``users``.
    digests : mapping
        Content addresses of the rows, under the same names.
    pretrained : mapping or None
        Parameters that pre-training left, by name in the student.
    attributes : sequence or None
        Keys and values of every item [n_items]; empty for padding and items without text.
    language_encoder : str or None
        Folder or name of a language encoder that the model reads items with.
    """

    n_users: int
    items: Tensor | None = None
    users: Tensor | None = None
    manifests: Mapping[str, Mapping[str, Any]] | None = None
    digests: Mapping[str, str] | None = None
    pretrained: Mapping[str, Tensor] | None = None
    attributes: Attributes | None = None
    language_encoder: str | None = None

    def said(self) -> dict[str, Any] | None:
        """What a run's manifest says about the files, or ``None`` where there are none."""
        if not self.manifests:
            return None
        digests = self.digests or {}
        return {name: {**said, "digest": digests.get(name)} for name, said in self.manifests.items()}

    def known_items(self) -> Tensor:
        """Items that have a text, bool [n_items]."""
        assert self.items is not None
        return (self.items != 0).any(1)

    def known_users(self) -> Tensor:
        """Users that have a profile, bool [n_users]."""
        assert self.users is not None
        return (self.users != 0).any(1)


def toy_inputs(n_items: int, item_dim: int | None, user_dim: int | None) -> SideInputs:
    """Inputs of the right widths for a toy catalogue, to try a model's parameters on."""
    items = None if item_dim is None else torch.eye(n_items, item_dim)
    users = None if user_dim is None else torch.eye(4, user_dim)
    return SideInputs(4, items, users)
