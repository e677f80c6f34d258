"""Nearest items to the profile by text embedding: no training at all, the profile is read when serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.baselines.scorer import Scorer
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.errors import SpecError
from recbole_kd.models.side import SideInputs


def compute(split: Split, hparams: Mapping[str, Any], side: SideInputs) -> Scorer:
    """score(u, i) = cos(z_u - mean z, t_i - mean t), z the profile and t the item text in one space.

    ``centre: false`` leaves the means out. Users without a profile and items without a text score 0.

    Raises
    ------
    SpecError
        The two sides were encoded by different encoders, or one of them by TF-IDF, whose space is fitted
        on the texts at hand.
    """
    assert side.items is not None
    assert side.users is not None
    check_same_space(side)
    centre = bool(hparams["centre"])
    items = _unit(side.items, side.known_items(), centre)
    users = _unit(side.users, side.known_users(), centre)

    def score(part: EvalSet, rows: slice) -> Tensor:
        chosen: Tensor = users[torch.from_numpy(part.history.users[rows])]
        return chosen @ items.t()

    return Scorer(score, {}, 0)


def check_same_space(side: SideInputs) -> None:
    """Refuse profile and item vectors that cannot be compared."""
    said = side.manifests or {}
    encoders = [dict(said.get(name, {}).get("encoder") or {}) for name in ("items", "users")]
    if any(e.get("kind") == "tfidf" for e in encoders):
        raise SpecError("ProfileNearest: TF-IDF vectors of profiles and items lie in spaces of their own")
    keys = ("kind", "model", "pooling", "weights", "dimension")
    if any(encoders) and any(encoders[0].get(k) != encoders[1].get(k) for k in keys):
        names = [f"{e.get('kind')} {e.get('model')}" for e in encoders]
        raise SpecError(
            f"ProfileNearest: items were encoded by {names[0]}, profiles by {names[1]}; name inputs with one "
            "encoder"
        )
    assert side.items is not None
    assert side.users is not None
    if side.items.shape[1] != side.users.shape[1]:
        raise SpecError(
            f"ProfileNearest: item vectors have {side.items.shape[1]} dimensions, profiles "
            f"{side.users.shape[1]}; leave both unreduced"
        )


def _unit(vectors: Tensor, known: Tensor, centre: bool) -> Tensor:
    if centre and bool(known.any()):
        vectors = vectors - vectors[known].mean(0)
    return torch.nn.functional.normalize(vectors, dim=1) * known[:, None]
