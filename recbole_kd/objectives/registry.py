"""Name -> objective. A new objective is one file and one line in :data:`OBJECTIVES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import Tensor

from recbole_kd.errors import SpecError
from recbole_kd.objectives.cosine import cosine
from recbole_kd.objectives.mse import mse

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "mse": mse,
    "cosine": cosine,
}


def get_objective(name: str) -> Objective:
    """Return the objective called ``name``.

    Raises
    ------
    SpecError
        If there is none; the message names the nearest one.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"distill.objective: no objective {name!r}{hint} Known: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]
