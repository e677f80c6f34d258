"""How far experiments are, and what in a results folder nobody needs any more."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import record, rundir
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import UserError


def overview(results: Path, only: str | None = None) -> list[dict[str, Any]]:
    """Runs done, planned, failed and corrupt of every experiment in ``results``.

    Raises
    ------
    UserError
        No experiment (of that name) was run there.
    """
    names = sorted(path.parent.name for path in results.glob(f"*/{record.FILE}"))
    if only is not None and only not in names:
        raise UserError(f"{results}: no experiment '{only}' was run here{did_you_mean(only, names)}")
    if not names:
        raise UserError(
            f"{results}: no experiment was run here; start with 'run_benchmark.py run quickstart'"
        )
    return [_state(results, name) for name in names if only in (None, name)]


def _state(results: Path, name: str) -> dict[str, Any]:
    value = record.read(results, name)
    if value is None:
        raise UserError(f"{record.folder(results, name) / record.FILE}: damaged; run the experiment again")
    runs = {str(cell["cell"]) for cell in value["cells"]}
    paths = {cell: rundir.run_path(results, cell) for cell in runs}
    faults = {cell: rundir.fault(path, cell) for cell, path in paths.items() if path.exists()}
    return {
        "experiment": name,
        "cells": len(value["cells"]),
        "runs": len(runs),
        "done": sum(fault is None for fault in faults.values()),
        "corrupt": sum(fault is not None for fault in faults.values()),
        "failures": value.get("failures", []),
    }


def prunable(results: Path, cache: bool) -> list[tuple[Path, str]]:
    """Paths that can go, with the reason; nothing that an experiment names, nothing in use."""
    named: set[str] = set()
    for path in results.glob(f"*/{record.FILE}"):
        value = record.read(results, path.parent.name)
        if value is None:
            raise UserError(
                f"{path}: damaged, so it is unknown which runs it needs; run the experiment again"
            )
        named |= {str(cell["cell"]) for cell in value["cells"]}
    found = [(path, "interrupted") for _, path in rundir.orphans(results)]
    found += [(path, "corrupt, set aside") for path in rundir.set_aside_folders(results)]
    found += [(path, "no experiment names it") for path in rundir.finished(results) if path.name not in named]
    if cache and (results / "cache").is_dir():
        found.append((results / "cache", "cache"))
    return found


def remove(results: Path, paths: list[Path]) -> None:
    """Delete run folders, each under the lock of its cell; one that is in use stays."""
    cells = {path: cell for cell, path in rundir.orphans(results)}
    for path in paths:
        with try_lock(results, f"cell-{cells.get(path, path.name)}") as held:
            if held:
                shutil.rmtree(path, ignore_errors=True)
