"""Inputs for every kind of objective, and the defaults that ship."""

from __future__ import annotations

from typing import Any

import torch
import yaml
from torch import Tensor

from recbole_kd.objectives import OBJECTIVES, get_objective
from recbole_kd.objectives.ranked import RankedBatch
from tests.conftest import ROOT

WEIGHT = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0, 0.0], dtype=torch.float64)


def defaults(name: str) -> dict[str, Any]:
    """Parameters as in ``properties/objective``."""
    path = ROOT / "properties" / "objective" / f"{name}.yaml"
    return yaml.safe_load(path.read_text())["args"] if path.is_file() else {}


def bound(name: str, **changes: Any) -> Any:
    """The objective with its defaults, changed."""
    return get_objective(name).bind({**defaults(name), **changes})


def inputs(name: str, n: int = 6, seed: int = 0) -> tuple[Tensor, Any, Tensor]:
    """Random student, teacher and weights in float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    kind = OBJECTIVES[name].kind
    weight = WEIGHT[:n].clone()
    if kind == "profiles":
        both = torch.stack([weight, weight.flip(0) * weight], 1)
        return normal(n, 4), normal(n, 2, 4), both
    if kind == "attributes":
        return normal(n, 5), (normal(n, 5) > 0).double(), weight
    if kind == "cluster":
        return normal(n, 3), torch.eye(3, dtype=torch.float64)[torch.arange(n) % 3], weight
    if kind == "lists":
        items = torch.stack([torch.randperm(9, generator=draw)[:4] + 1 for _ in range(n)])
        items[-2, 2:] = 0
        score = normal(n, 4).sort(1, descending=True).values.masked_fill(items == 0, 0.0)
        others = torch.stack([torch.tensor([i for i in range(1, 10) if i not in row][:3]) for row in items])
        return normal(n, 10), RankedBatch(items, score, others), weight
    return normal(n, 4), normal(n, 4), weight


def rows(teacher: Any, keep: Tensor) -> Any:
    """Rows of a teacher of any kind."""
    if isinstance(teacher, RankedBatch):
        return RankedBatch(*(part[keep] for part in teacher))
    return teacher[keep]
