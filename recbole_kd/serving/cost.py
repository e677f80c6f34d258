"""What a request costs: parameters and floating-point operations, beside RecBole's plain backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_kd.models.build import build_student
from recbole_kd.serving.student import Scorer, Trained, build_plain, requests


def n_parameters(model: Any) -> int:
    """Trainable numbers of a model."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def request_flops(scorer: torch.nn.Module, n_items: int, max_len: int) -> int:
    """Operations of the matrix products of one request with a full history, an addition and a
    multiplication counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = requests(n_items, max_len, np.array([max_len]), seed=0)
    with FlopCounterMode(display=False) as counter:
        scorer(*batch)
    return int(counter.get_total_flops())


def serving_cost(trained: Trained) -> dict[str, int]:
    """Parameters and operations of a trained student and of a fresh plain backbone of the same size.

    Returns
    -------
    dict
        ``parameters``, ``plain_parameters`` (RecBole's own class), ``flops`` and ``plain_flops`` (per
        request with a full history).
    """
    student = trained.spec.student
    shape = trained.n_items, trained.max_len
    fresh = build_student(student.model, student.hparams, n_items=shape[0], max_len=shape[1], seed=0).eval()
    return {
        "parameters": n_parameters(trained.model),
        "plain_parameters": n_parameters(build_plain(trained)),
        "flops": request_flops(Scorer(trained.model), *shape),
        "plain_flops": request_flops(Scorer(fresh), *shape),
    }
