"""Fit a system with a closed form and report it as a training of one epoch."""

from __future__ import annotations

import importlib
import time
from functools import partial
from typing import Any

from torch import Tensor

from recbole_kd.baselines import COMPUTED
from recbole_kd.baselines.scorer import Scorer
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.metrics import per_user
from recbole_kd.models.side import SideInputs
from recbole_kd.ranking import Ranks, rank_rows
from recbole_kd.training.fit import FitResult, OnEpoch
from recbole_kd.training.run import REPORTED
from recbole_kd.training.spec import StudentSpec


def fit_computed(
    split: Split, spec: StudentSpec, *, side: SideInputs, on_epoch: OnEpoch | None = None
) -> tuple[FitResult, Scorer]:
    """Compute ``spec.model`` and its validation metrics; no device, no epoch, no stopping."""
    begin = time.perf_counter()
    scorer = compute(split, spec, side)
    middle = time.perf_counter()
    ranks = rank_computed(scorer, split.valid, batch_size=spec.train.eval_batch_size)
    end = time.perf_counter()
    names = dict.fromkeys([*REPORTED, spec.train.valid_metric])
    row: dict[str, Any] = {"epoch": 1, "phase": "closed form", "loss": float("nan")}
    row |= {f"valid_{m.lower()}": float(per_user(ranks.rank, m).mean()) for m in names}
    row |= {"seconds": end - begin}
    if on_epoch:
        on_epoch(row)
    result = FitResult(
        model=scorer,
        state_dict=scorer.state,
        history=[row],
        best_epoch=1,
        epochs=1,
        stopped_early=True,
        seconds={"train": middle - begin, "valid": end - middle},
        n_parameters=scorer.n_parameters,
    )
    return result, scorer


def compute(split: Split, spec: StudentSpec, side: SideInputs) -> Scorer:
    """Compute ``spec.model``; equal inputs give an equal scorer."""
    module, _, name = COMPUTED[spec.model].partition(":")
    scorer: Scorer = getattr(importlib.import_module(module), name)(split, spec.hparams, side)
    return scorer


def rank_computed(scorer: Scorer, part: EvalSet, *, batch_size: int, device: str = "cpu") -> Ranks:
    """Rank every target."""
    score: partial[Tensor] = partial(scorer.score, part)
    return rank_rows(score, part, batch_size=batch_size, device=device)
