"""Reading ``experiment.json`` and single run directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.ranks_file import RanksFile, read_ranks
from recbole_kd.errors import StoreError

CELL_KEYS = ("dataset", "backbone", "variant", "seed")


def read_json(path: Path) -> dict[str, Any]:
    """JSON object of a file; StoreError in one line otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: not found") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def read_experiment(directory: Path) -> dict[str, Any]:
    """Content of ``experiment.json``, checked field by field."""
    path = directory / "experiment.json"
    if not path.exists():
        raise StoreError(f"{path}: not found; give the folder that `run` wrote for the experiment")
    value = read_json(path)
    if value.get("format") != 1:
        raise StoreError(f"{path}: field 'format' is {value.get('format')!r}, this version reads 1")
    for name, kind in (("experiment", str), ("baseline", str), ("metrics", list), ("cells", list)):
        if not isinstance(value.get(name), kind):
            raise StoreError(f"{path}: field '{name}' is missing or not a {kind.__name__}")
    if not value["metrics"]:
        raise StoreError(f"{path}: field 'metrics' is empty; name at least one, such as NDCG@10")
    if not value["cells"]:
        raise StoreError(f"{path}: field 'cells' is empty; the experiment plans no run")
    for number, cell in enumerate(value["cells"]):
        lacking = [k for k in (*CELL_KEYS, "cell", "run") if not isinstance(cell, dict) or k not in cell]
        if lacking:
            raise StoreError(f"{path}: cells[{number}] lacks {', '.join(lacking)}")
    return value


def run_path(directory: Path, relative: str) -> Path:
    """Run directory named by ``experiment.json``; must lie inside of the results folder."""
    root = directory.resolve().parent
    for base in (directory.resolve(), root):
        path = (base / relative).resolve()
        if path.is_relative_to(root) and path.exists():
            return path
    return root / "runs" / Path(relative).name


def list_failures(value: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Failures of an experiment as mappings."""
    listed = value.get("failures") or []
    return tuple(f if isinstance(f, dict) else {"error": str(f)} for f in listed)


def failure_reason(failure: Mapping[str, Any]) -> str:
    """Last line of what a failure says."""
    for key in ("error", "reason", "message", "traceback"):
        if failure.get(key):
            lines = str(failure[key]).strip().splitlines()
            return lines[-1] if lines else "failed"
    return "failed"


def _seconds(manifest: Mapping[str, Any]) -> float | None:
    seconds = manifest.get("seconds")
    if isinstance(seconds, int | float):
        return float(seconds)
    if not isinstance(seconds, dict):
        return None
    numbers = {k: float(v) for k, v in seconds.items() if isinstance(v, int | float)}
    for key in ("train", "fit", "total"):
        if key in numbers:
            return numbers[key]
    return sum(numbers.values()) if numbers else None


def load_cell(
    cell: Mapping[str, Any],
    path: Path,
    failed: Mapping[str, str],
    split: str,
    masked: bool,
    check_label: bool,
) -> tuple[dict[str, Any], dict[str, Any] | None, RanksFile | None]:
    """One row of ``runs`` and, when it is done, its manifest and ranks."""
    row = {k: cell[k] for k in (*CELL_KEYS, "cell")} | {"status": "missing", "reason": "", "path": str(path)}
    if not (path / "manifest.json").exists():
        if cell["cell"] in failed:
            row |= {"status": "failed", "reason": failed[cell["cell"]]}
        return row, None, None
    try:
        manifest = read_json(path / "manifest.json")
        label = manifest.get("label") or {}
        # A run is shared by all experiments that resolve to it, under whatever variant name.
        wrong = [k for k in ("backbone", "seed") if k in label and str(label[k]) != str(cell[k])]
        if wrong and check_label:
            raise StoreError(f"{path / 'manifest.json'}: label differs from the plan in {', '.join(wrong)}")
        if manifest.get("status", "done") != "done":
            return row | {"status": "failed", "reason": str(manifest.get("status"))}, None, None
        ranks = read_ranks(path / "ranks.parquet", split=split, masked=masked)
    except StoreError as error:
        return row | {"status": "unreadable", "reason": str(error)}, None, None
    for key in ("best_epoch", "epochs", "peak_memory_mb", "n_parameters", "device", "profile_coverage"):
        row[key] = manifest.get(key)
    row |= {"status": "done", "n_users": ranks.n_users, "train_seconds": _seconds(manifest)}
    return row, manifest, ranks
