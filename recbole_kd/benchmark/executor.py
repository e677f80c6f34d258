"""Run one cell: split and teacher files -> student -> ranks -> run directory."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark import checkpoints, machine, rundir
from recbole_kd.benchmark.artefacts import Artefacts, read_split
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.run_record import Finished, files_of, manifest_of
from recbole_kd.benchmark.spec import CellLabel, CellSpec
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.rerank import Reranked
    from recbole_kd.data.profile_table import ProfileTable
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import Split
    from recbole_kd.training.checkpoint import Checkpoint
    from recbole_kd.training.fit import FitResult, OnEpoch
    from recbole_kd.training.spec import DiagnosticsSpec

DONE, EXISTS, BUSY, FAILED = "done", "exists", "busy", "failed"
# Random streams and thread counts belong to a process: a Dask worker with several threads must not
# train two cells at once.
_ONE_AT_A_TIME = threading.Lock()
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class CellTask:
    """Everything that a worker needs; plain values, so that it travels between machines.

    ``turn`` is its place in the sweep: of the tasks at hand the one with the lowest starts first.
    """

    results: str
    cell: str
    label: dict[str, Any]
    spec: dict[str, Any]
    split: str
    teacher: str | None
    device: str
    metrics: tuple[str, ...]
    inputs: dict[str, str] | None = None
    diagnostics: dict[str, Any] | None = None
    turn: int = 0

    @classmethod
    def build(
        cls,
        results: Path,
        cell: str,
        label: CellLabel,
        spec: CellSpec,
        files: Artefacts,
        device: str,
        metrics: tuple[str, ...],
        diagnostics: DiagnosticsSpec | None = None,
        turn: int = 0,
    ) -> CellTask:
        """Make the task of a planned cell."""
        teacher = None if files.teacher is None else str(files.teacher.resolve())
        return cls(
            str(results.resolve()),
            cell,
            label.canonical(),
            spec.canonical(),
            str(files.split.resolve()),
            teacher,
            device,
            metrics,
            files.inputs,
            None if diagnostics is None else diagnostics.canonical(),
            turn,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    status : str
        ``done``, ``exists`` (another process finished it), ``busy`` (another process is at it) or
        ``failed``.
    resumed_at : tuple of int
        Epochs after which an interrupted training went on.
    """

    cell: str
    status: str
    seconds: float = 0.0
    error: str | None = None
    trace: str | None = None
    resumed_at: tuple[int, ...] = ()


def run_cell(task: CellTask, on_epoch: OnEpoch | None = None, fitted: FitResult | None = None) -> Outcome:
    """Run one cell unless it exists or another process is at it; never raises for a failing cell.

    With ``fitted`` its training is over (it was a part of a stack); what is left is to rank and to write.
    """
    begin = time.perf_counter()
    results = Path(task.results)
    try:
        with _ONE_AT_A_TIME, try_lock(results, f"cell-{task.cell}") as held:
            if not held:
                return Outcome(task.cell, BUSY)
            begin = time.perf_counter()
            path = rundir.run_path(results, task.cell)
            if rundir.whole(results, task.cell):
                checkpoints.path_of(results, task.cell).unlink(missing_ok=True)
                return Outcome(task.cell, EXISTS)
            if path.exists():
                # Nothing could be put in its place.
                rundir.set_aside(path)
            resumed = _run(task, results, on_epoch, fitted)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trace = machine.redact(traceback.format_exc())
        return Outcome(task.cell, FAILED, time.perf_counter() - begin, machine.redact(text), trace)
    return Outcome(task.cell, DONE, time.perf_counter() - begin, resumed_at=resumed)


def limit_threads() -> None:
    """One torch thread: a process per core is faster than threads, and sums keep their order."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)


def _run(
    task: CellTask, results: Path, on_epoch: OnEpoch | None, fitted_before: FitResult | None
) -> tuple[int, ...]:
    """Train, rank, write; return the epochs after which an interrupted training went on."""
    begin = time.perf_counter()
    machine.reset_peak_memory()
    machine.reset_gpu_peak(task.device)
    limit_threads()
    checkpoint = checkpoints.of_cell(results, task.cell, task.device)
    finished = _finished(task, results, on_epoch, fitted_before, checkpoint, begin)
    spec = finished.spec.canonical()
    rundir.write_run(results, task.cell, spec, manifest_of(finished), files_of(finished))
    checkpoint.remove()
    return tuple(part["epoch"] for part in finished.result.resumed)


def _finished(
    task: CellTask,
    results: Path,
    on_epoch: OnEpoch | None,
    fitted_before: FitResult | None,
    checkpoint: Checkpoint,
    begin: float,
) -> Finished:
    """Read the files of a cell, train it (or ask its language model) and rank."""
    from recbole_kd.benchmark.inputs import read_inputs

    spec = CellSpec.model_validate(task.spec)
    split = read_split(Path(task.split))
    profiles = _profiles(spec, task.teacher, split)
    side = read_inputs(task.inputs, split)
    loaded = time.perf_counter()
    extra: Reranked | None = None
    if spec.ranker is not None:
        from recbole_kd.benchmark.rerank import run_ranker

        extra = run_ranker(results, spec, split, (task.inputs or {}).get("users"), task.device, on_epoch)
        result, parts, ranks = extra.result, extra.parts, extra.ranks
        fitted = time.perf_counter()
    else:
        from recbole_kd.benchmark.students import Read, Training, train

        diagnostics = None
        if task.diagnostics is not None:
            from recbole_kd.training.spec import DiagnosticsSpec

            diagnostics = DiagnosticsSpec.model_validate(task.diagnostics)
        scratch = partial(rundir.scratch, results, task.cell)
        how = Training(
            task.device,
            on_epoch,
            scratch,
            results / "cache" / "tuned",
            diagnostics,
            fitted_before,
            checkpoint,
        )
        result, rank = train(spec, Read(split, profiles, side), how)
        fitted = time.perf_counter()
        parts = {"valid": split.valid, "test": split.test}
        ranks = {name: rank(part) for name, part in parts.items()}
    done = time.perf_counter()
    seconds = {
        **result.seconds,
        "load": loaded - begin,
        "fit": fitted - loaded + result.seconds_before,
        "rank": done - fitted,
        "total": done - begin + result.seconds_before,
    }
    stacked = fitted_before is not None
    return Finished(task, spec, split, profiles, side, result, parts, ranks, seconds, stacked, extra)


def _profiles(spec: CellSpec, teacher: str | None, split: Split) -> ProfileTable | TeacherLists | None:
    from recbole_kd.benchmark import rooms, teacher_lists

    if teacher is None:
        return None
    # It may have changed since planning; the address would then name other vectors.
    rooms.check_given(spec, teacher)
    if spec.lists is not None:
        return teacher_lists.read(teacher, spec, split)
    if spec.teacher is None:
        return None
    from recbole_kd.data.profile_table import load_profiles

    return load_profiles(teacher, split, trust_unverified=bool(spec.teacher.get("trust_unverified")))


def task_from(data: Mapping[str, Any]) -> CellTask:
    """Rebuild a task from :func:`task_to`."""
    return CellTask(**{**data, "metrics": tuple(data["metrics"])})


def task_to(task: CellTask) -> dict[str, Any]:
    """Plain dictionary of a task."""
    return asdict(task)
