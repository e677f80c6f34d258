"""Checkpoints of the cells of a results folder: one file per cell, used under the lock of the cell."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark import machine
from recbole_kd.benchmark.devices import execution_of

if TYPE_CHECKING:
    from recbole_kd.training.checkpoint import Checkpoint

_SUFFIX = ".pt"


def folder(results: Path) -> Path:
    """Where they lie."""
    return results / "cache" / "training"


def path_of(results: Path, cell: str) -> Path:
    """File of a cell."""
    return folder(results) / f"{cell}{_SUFFIX}"


def of_cell(results: Path, cell: str, device: str) -> Checkpoint:
    """The checkpoint of a cell, as often as the device's settings say.

    The cell's address stands for all that its training depends on, but for the code that trains: a run's
    manifest says by ``earlier_parts`` on which code and processor those were made.
    """
    from recbole_kd.training.checkpoint import Checkpoint

    def say(line: str) -> None:
        sys.stderr.write(f"cell {cell}: {line}\n")

    seconds = execution_of(device).checkpoint_seconds
    return Checkpoint(path_of(results, cell), seconds, {"cell": cell}, _made_by, say)


def _made_by() -> dict[str, Any]:
    return {"code": machine.code()["source"], "processor": machine.processor()}


def idle(results: Path, wanted: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Yield (cell digest, path) of checkpoints of cells that are not among ``wanted``."""
    for path in sorted(folder(results).glob(f"*{_SUFFIX}")):
        if path.stem not in wanted:
            yield path.stem, path
