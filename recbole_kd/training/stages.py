"""Models that are trained in stages; nearly all have one and none of the methods that are asked for here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recbole_kd.training.early_stopping import EarlyStopping


def begin_epoch(model: Any) -> dict[str, str]:
    """Let a staged model prepare an epoch; return what its row of the history says otherwise."""
    if not hasattr(model, "begin_epoch"):
        return {}
    model.begin_epoch()
    return {"phase": model.phase}


def goes_on(model: Any, best: Mapping[str, Tensor], stopping: EarlyStopping, epoch: int) -> bool:
    """Whether a model that stopped improving has another stage, which begins at the best epoch so far."""
    if not hasattr(model, "next_stage") or not model.next_stage(best):
        return False
    stopping.renew(epoch)
    return True
