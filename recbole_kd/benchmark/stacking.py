"""Cells of one shape trained at once in this process: ``run --stack-seeds``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark import machine, rundir
from recbole_kd.benchmark.artefacts import read_split
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.benchmark.engines import Late, Outcomes
from recbole_kd.benchmark.executor import BUSY, CellTask, limit_threads, run_cell
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.strict import digest

if TYPE_CHECKING:
    from recbole_kd.training.fit import FitResult

_BUSY_PAUSE = 1.0


@dataclass(frozen=True)
class Pending:
    """A task with its spec, read once."""

    task: CellTask
    spec: CellSpec


class StackedEngine:
    """Trains the cells that differ in seed and optimisation only as one model, all others one by one."""

    workers = 1
    remote = False
    overlaps = False

    def __enter__(self) -> StackedEngine:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, tasks: Sequence[CellTask], late: Late | None = None) -> Outcomes:
        """See :class:`recbole_kd.benchmark.engines.Engine`."""
        for group in grouped([*tasks, *(late.take() if late else ())]):
            begin = time.perf_counter()
            results = _train(group)
            share = (time.perf_counter() - begin) / len(group)
            for pending, fitted in zip(group, results, strict=True):
                outcome = run_cell(pending.task, fitted=fitted)
                while outcome.status == BUSY:
                    time.sleep(_BUSY_PAUSE)
                    outcome = run_cell(pending.task, fitted=fitted)
                yield replace(outcome, seconds=outcome.seconds + (share if fitted else 0.0))


def grouped(tasks: Sequence[CellTask]) -> Iterator[list[Pending]]:
    """Tasks that can be one stack together, in the order of the first of each; the others alone."""
    from recbole_kd.training.stacked import can_stack, shape_of

    groups: dict[str, list[Pending]] = {}
    for task in tasks:
        spec = CellSpec.model_validate(task.spec)
        alone = spec.ranker is not None or not can_stack(spec.student)
        batches = [task.split, spec.dataset.max_item_list_length, task.device]
        key: list[Any] = [task.cell] if alone else [*batches, repr(shape_of(spec.student))]
        groups.setdefault(digest([str(part) for part in key]), []).append(Pending(task, spec))
    yield from groups.values()


def _train(group: Sequence[Pending]) -> list[FitResult | None]:
    """Fitted students of the missing cells of a group; None where a cell is left to train alone."""
    missing = [p for p in group if not _exists(p.task)]
    by_cell: dict[str, FitResult] = {}
    if len(missing) >= 2:
        try:
            by_cell = _fit(missing)
        except Exception as error:
            # One of them diverged, or all of them are too large at once: alone, only what must fail fails.
            text = machine.redact(f"{type(error).__name__}: {error}").splitlines()[0]
            sys.stderr.write(f"a stack of {len(missing)} cells failed ({text}); they train alone\n")
    return [by_cell.get(p.task.cell) for p in group]


def _fit(group: Sequence[Pending]) -> dict[str, FitResult]:
    """Train a group as one model; results by cell."""
    from recbole_kd.training.stacked import fit_stacked

    first = group[0]
    limit_threads()
    machine.reset_gpu_peak(first.task.device)
    fitted = fit_stacked(
        read_split(Path(first.task.split)),
        [p.spec.student for p in group],
        [p.spec.seed for p in group],
        device=first.task.device,
        max_item_list_length=first.spec.dataset.max_item_list_length,
        execution=execution_of(first.task.device),
    )
    return {p.task.cell: result for p, result in zip(group, fitted, strict=True)}


def _exists(task: CellTask) -> bool:
    path = rundir.run_path(Path(task.results), task.cell)
    return path.exists() and rundir.fault(path, task.cell) is None
