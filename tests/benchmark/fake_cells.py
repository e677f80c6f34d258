"""Cells without training: run directories whose ranks depend on the cell's address alone.

Also a driver, ``python fake_cells.py EXPERIMENT RESULTS WORKERS SECONDS LOG``, to be killed by tests;
with ``real`` instead of SECONDS its cells are real trainings.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import Artefacts
from recbole_kd.benchmark.executor import BUSY, DONE, EXISTS, FAILED, CellTask, Outcome
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.errors import StoreError

USERS = 20


def no_artefacts(results: Path, planned: Sequence[PlannedCell]) -> dict[str, Artefacts]:
    """Stand-in for the builder."""
    return {cell.cell: Artefacts(results / "none", None, None) for cell in planned}


def write_fake_run(results: Path, cell: str, label: dict[str, Any], valid: float = 0.0) -> None:
    """Write a run directory as the real executor does; NDCG@10 of every validation user is ``valid``."""
    draw = np.random.default_rng(int(hashlib.sha256(cell.encode()).hexdigest()[:8], 16))
    ranks = draw.integers(1, 30, USERS).astype(np.float32)
    validated = np.full(USERS, 2 ** (1 / valid) - 1 if valid else 30, np.float32)
    every = np.concatenate([ranks, validated])
    columns: dict[str, Any] = {"split": ["test"] * USERS + ["valid"] * USERS}
    columns |= {"user": [f"u{i}" for i in range(USERS)] * 2, "item": [f"i{i}" for i in range(USERS)] * 2}
    columns |= {"rank": every, "rank_masked": every}
    columns |= {name: np.full(2 * USERS, 3, np.int32) for name in ("train_len", "history_len", "item_count")}
    manifest = {
        "label": {name: label[name] for name in ("backbone", "seed")},
        "written_as": label,
        "model": label["backbone"],
        "metrics": {"valid": {"NDCG@10": valid}, "test": {"NDCG@10": float(ranks.mean())}},
        "seconds": {"total": 1.0},
        "split_digest": "same",
    }
    history = pa.table({"epoch": [1], "loss": [1.0]})
    rundir.write_run(
        results,
        cell,
        {"fake": cell},
        manifest,
        {
            "ranks.parquet": lambda path: pq.write_table(pa.table(columns), path),
            "history.parquet": lambda path: pq.write_table(history, path),
            "model.safetensors": lambda path: path.write_bytes(b"weights"),
        },
    )


def fake_cell(seconds: float, log: Path | None, failing: str = "") -> Callable[[CellTask], Outcome]:
    """A cell function that takes ``seconds``, appends its address to ``log`` and fails for one variant."""

    def run(task: CellTask) -> Outcome:
        results = Path(task.results)
        with try_lock(results, f"cell-{task.cell}") as held:
            if not held:
                return Outcome(task.cell, BUSY)
            if rundir.run_path(results, task.cell).exists():
                return Outcome(task.cell, EXISTS)
            time.sleep(seconds)
            if failing and task.label["variant"] == failing:
                return Outcome(task.cell, FAILED, seconds, "ValueError: on purpose", "Traceback: on purpose")
            write_fake_run(results, task.cell, task.label)
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{task.cell} {os.getpid()}\n")
        return Outcome(task.cell, DONE, seconds)

    return run


def reporting_cell(task: CellTask) -> Outcome:
    """Write the run at once and turn an error into a failure, as the real executor does."""
    try:
        with try_lock(Path(task.results), f"cell-{task.cell}"):
            write_fake_run(Path(task.results), task.cell, task.label)
    except StoreError as error:
        return Outcome(task.cell, FAILED, 0.0, str(error), str(error))
    return Outcome(task.cell, DONE)


def telling_cell(seconds: float, log: Path, started: Path) -> Callable[[CellTask], Outcome]:
    """Like ``fake_cell``, and appends its address to ``started`` when it begins to work."""
    inner = fake_cell(seconds, log)

    def run(task: CellTask) -> Outcome:
        with started.open("a") as file:
            file.write(f"{task.cell} {os.getpid()}\n")
        return inner(task)

    return run


def real_cell(log: Path, epochs: Path | None = None) -> Callable[[CellTask], Outcome]:
    """A real training that appends its address to ``log`` at its end and to ``epochs`` at each epoch."""
    from recbole_kd.benchmark.executor import run_cell

    def note(file: Path, cell: str) -> None:
        with file.open("a") as opened:
            opened.write(f"{cell} {os.getpid()}\n")

    def run(task: CellTask) -> Outcome:
        outcome = run_cell(task, None if epochs is None else lambda row: note(epochs, task.cell))
        if outcome.status == DONE:
            note(log, task.cell)
        return outcome

    return run


def drive(experiment: str, results: Path, workers: int, seconds: str, log: Path) -> None:
    """Run an experiment of fake or real cells; workers = 0 stays in this process."""
    from recbole_kd.benchmark.console import JsonReporter
    from recbole_kd.benchmark.engines import DaskEngine, Engine, SerialEngine
    from recbole_kd.benchmark.resolve import load_experiment
    from recbole_kd.benchmark.sweep import run_sweep

    function = real_cell(log) if seconds == "real" else fake_cell(float(seconds), log)
    engine: Engine = SerialEngine(function) if workers == 0 else DaskEngine(workers, function=function)
    more: dict[str, Any] = {"device": "cpu", "figures": False}
    if seconds != "real":
        more["build"] = no_artefacts
    run_sweep(load_experiment(experiment), results, engine, JsonReporter(), **more)


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
