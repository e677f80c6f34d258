"""Optional files beside ``experiment.json`` that only the report shows.

``tuning.json`` is a list of studies ``{"name", "metric", "trials": [{"number", "value", "params"}]}``,
``users.json`` a list of ``{"dataset", "user", "history", "profile", "grounding", "target", "before",
"after"}`` where ``history``, ``before`` and ``after`` are lists of item titles; optional: ``why``,
``backbone``, ``baseline``, ``variant``, ``seed``, ``rank_before``, ``rank_after``, ``written_for`` (user),
``earlier`` (items of the history not listed). Both are written by the runner; titles and profiles are
untrusted text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import wording
from analysis.table import Cell, Column, Table
from recbole_kd.errors import StoreError


def read_list(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON list; empty if the file does not exist.

    Raises
    ------
    StoreError
        The file is no JSON list of objects.
    """
    if not path.exists():
        return []
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise StoreError(f"{path}: expected a list of objects")
    return value


def tuning_frame(studies: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per trial: ``study, trial, value, best`` (best so far) and ``params`` as text."""
    rows = []
    for study in studies:
        best = float("-inf")
        for trial in study.get("trials") or []:
            value = trial.get("value")
            known = isinstance(value, int | float) and value == value
            best = max(best, float(value)) if known else best
            rows.append(
                {
                    "study": str(study.get("name", "")),
                    "trial": trial.get("number"),
                    "value": float(value) if known else float("nan"),
                    "best": best if np.isfinite(best) else float("nan"),
                    "params": _parameters(trial.get("params")),
                }
            )
    return pd.DataFrame(rows, columns=["study", "trial", "value", "best", "params"])


def _parameters(params: Any) -> str:
    pairs = sorted(params.items()) if isinstance(params, dict) else []
    return ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in pairs)


def tuning_table(studies: list[dict[str, Any]], digits: int = 4) -> Table:
    """Every trial of every study."""
    frame = tuning_frame(studies)
    rows = tuple(
        (
            Cell(row["study"]),
            Cell(str(row["trial"]), sort=float(row["trial"]) if isinstance(row["trial"], int) else None),
            Cell(wording.number(row["value"], digits), sort=row["value"]),
            Cell(wording.number(row["best"], digits), sort=row["best"]),
            Cell(row["params"]),
        )
        for row in frame.to_dict("records")
    )
    metrics = sorted({str(s.get("metric", "")) for s in studies} - {""})
    counts = {str(s.get("name", "")): len(s.get("trials") or []) for s in studies}
    budget = "; ".join(f"{name}: {n} trials" for name, n in counts.items())
    return Table(
        name="tuning",
        title="Tuning history",
        caption=f"Validation {wording.listing(metrics) or 'value'} of every trial. Budgets: {budget}.",
        columns=(
            Column("Study", "l"),
            Column("Trial"),
            Column("Value"),
            Column("Best so far"),
            Column("Parameters", "l"),
        ),
        rows=rows,
        frame=frame,
    )


def _methods(entry: Mapping[str, Any]) -> str:
    names = [str(entry.get(k) or "") for k in ("backbone", "baseline", "variant")]
    if not all(names):
        return ""
    seed = f", seed {entry['seed']}" if "seed" in entry else ""
    return f"{names[0]}: before = {names[1]}, after = {names[2]}{seed}"


def _ranks(entry: Mapping[str, Any]) -> str:
    before, after = entry.get("rank_before"), entry.get("rank_after")
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return ""
    return f"rank {before:g} \u2192 {after:g}"


def user_view(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A user of ``users.json`` as text only, whatever types it holds."""

    def titles(key: str) -> list[str]:
        value = entry.get(key)
        return [str(v) for v in value] if isinstance(value, list) else []

    grounding = entry.get("grounding")
    known = isinstance(grounding, int | float) and not isinstance(grounding, bool)
    return {
        "user": str(entry.get("user", "")),
        "dataset": str(entry.get("dataset", "")),
        "profile": str(entry.get("profile") or ""),
        "grounding": wording.number(float(grounding), 2) if known and grounding is not None else "\u2013",
        "target": str(entry.get("target") or ""),
        "why": str(entry.get("why") or ""),
        "methods": _methods(entry),
        "ranks": _ranks(entry),
        "written_for": str(entry.get("written_for") or ""),
        "earlier": str(entry.get("earlier") or ""),
        "history": titles("history"),
        "before": titles("before"),
        "after": titles("after"),
    }
