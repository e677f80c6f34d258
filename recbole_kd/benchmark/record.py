"""``<results>/<experiment>/experiment.json``: the planned cells, their runs and the failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.resolve import Experiment

FORMAT = 1
FILE = "experiment.json"


def folder(results: Path, name: str) -> Path:
    """Folder of an experiment's tables."""
    return results / name


def read(results: Path, name: str) -> dict[str, Any] | None:
    """Read the record of an experiment; ``None`` when there is none or it is damaged."""
    try:
        value = json.loads((folder(results, name) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write(results: Path, experiment: Experiment, failures: dict[str, dict[str, Any]]) -> Path:
    """Write the record.

    Parameters
    ----------
    failures : dict
        By cell digest. Failures that another driver recorded stay, unless the cell exists by now.

    Returns
    -------
    Path
        Folder of the experiment.
    """
    home = folder(results, experiment.name)
    earlier = (read(results, experiment.name) or {}).get("failures", [])
    merged: dict[str, dict[str, Any]] = {
        str(f["cell"]): f for f in earlier if isinstance(f, dict) and "cell" in f
    }
    merged |= failures
    planned = dict.fromkeys(c.cell for c in experiment.cells)
    missing = [c for c in planned if not (rundir.run_path(results, c) / rundir.MANIFEST).is_file()]
    kept = [merged[cell] for cell in missing if cell in merged]
    value = {
        "format": FORMAT,
        "experiment": experiment.name,
        "baseline": experiment.spec.baseline,
        "metrics": experiment.spec.metrics,
        "diagnostics": experiment.spec.diagnostics.canonical(),
        "cells": [
            {**c.label.canonical(), "cell": c.cell, "run": f"../runs/{c.cell}"} for c in experiment.cells
        ],
        "failures": kept,
    }
    text = json.dumps(value, indent=1) + "\n"
    path = home / FILE
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        rundir.write_text_atomic(path, text)
    return home
