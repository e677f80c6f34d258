"""How far experiments are, and what in a results folder nobody needs any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import checkpoints, record, rundir, tuning
from recbole_kd.benchmark.locks import in_use, try_lock
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import UserError

# Below the cache: made of the data, of stored answers and of runs.
_MADE = ("splits", "items", "pretrained", "lists", "candidates", "candidate-ranks", "last-k")


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
        Also the stored splits, vectors, lists and pre-trained weights, which are made again when they are
        asked for; never the answers of language models, which are paid for.
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
    return found + ([(path, "cache") for path in _rebuildable(results / "cache")] if cache else [])


def _rebuildable(cache: Path) -> list[Path]:
    """What of the cache can be made again for nothing but time.

    ``profiles`` and ``llm`` hold bought answers, ``training`` and ``tuned`` what interrupted
    cells go on from.
    """
    folders = [cache / name for name in _MADE]
    vectors = sorted((cache / "profiles").glob("*.parquet"))
    return [path for path in folders if path.is_dir()] + vectors


def remove(results: Path, paths: list[Path]) -> list[Path]:
    """Delete run folders, checkpoints and files of the cache; return what is in use and stays.

    A run or checkpoint goes under the lock of its cell; the cache while nobody holds any lock of the results,
    since every cell at work reads it.
    """
    cached = [path for path in paths if (results / "cache") in path.parents]
    cached = [path for path in cached if path.parent != checkpoints.folder(results)]
    stay = cached if cached and in_use(results) else []
    for path in set(cached) - set(stay):
        _delete(path)
    return stay + _remove_runs(results, [path for path in paths if path not in cached])


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_runs(results: Path, paths: list[Path]) -> list[Path]:
    stay = []
    cells = {path: cell for cell, path in (*rundir.orphans(results), *checkpoints.idle(results, ()))}
    for path in paths:
        with try_lock(results, f"cell-{cells.get(path, path.name)}") as held:
            if held:
                _delete(path)
            else:
                stay.append(path)
    return stay
