"""How far experiments are, and what in a results folder nobody needs any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import checkpoints, record, rundir, tuning
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


def _trials(results: Path) -> set[str]:
    """Runs that a tuning history names."""
    named = set()
    for path in results.glob(f"*/{tuning.FILE}"):
        try:
            studies = json.loads(path.read_text(encoding="utf-8"))
            named |= {str(t["cell"]) for study in studies for t in study["trials"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged, so it is unknown which runs it needs; tune again") from error
    return named


def prunable(results: Path, cache: bool, trials: bool = False) -> list[tuple[Path, str]]:
    """Paths that can go, with the reason; nothing that an experiment names, nothing in use.

    Parameters
    ----------
    cache : bool
        Also the stored splits and teacher files.
    trials : bool
        Also the runs of tuning trials; their values stay in the history.
    """
    named: set[str] = set()
    for path in results.glob(f"*/{record.FILE}"):
        value = record.read(results, path.parent.name)
        if value is None:
            raise UserError(
                f"{path}: damaged, so it is unknown which runs it needs; run the experiment again"
            )
        named |= {str(cell["cell"]) for cell in value["cells"]}
    tried = _trials(results) - named
    found = [(path, "interrupted") for _, path in rundir.orphans(results)]
    found += [(path, "corrupt, set aside") for path in rundir.set_aside_folders(results)]
    for path in rundir.finished(results):
        if path.name not in named | tried:
            found.append((path, "no experiment names it"))
        elif trials and path.name in tried:
            found.append((path, "a tuning trial"))
    found += [(path, "checkpoint of no experiment") for _, path in checkpoints.idle(results, named | tried)]
    if cache and (results / "cache").is_dir():
        found.append((results / "cache", "cache"))
    return found


def remove(results: Path, paths: list[Path]) -> None:
    """Delete run folders and checkpoints, each under the lock of its cell; one that is in use stays."""
    cells = {path: cell for cell, path in (*rundir.orphans(results), *checkpoints.idle(results, ()))}
    for path in paths:
        with try_lock(results, f"cell-{cells.get(path, path.name)}") as held:
            if held:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
