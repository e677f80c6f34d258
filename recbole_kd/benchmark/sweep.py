"""Run an experiment: build what cells share, run what is missing, keep the record and the tables."""

from __future__ import annotations

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import record, rundir
from recbole_kd.benchmark.artefacts import Artefacts, build_in_child
from recbole_kd.benchmark.console import Reporter, first_line
from recbole_kd.benchmark.engines import Engine, Outcomes
from recbole_kd.benchmark.executor import FAILED, CellTask, Outcome
from recbole_kd.benchmark.plan import CellState, Plan, make_plan, tidy
from recbole_kd.benchmark.rankers import needs, with_retrievers
from recbole_kd.benchmark.resolve import Experiment
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.errors import StoreError, UserError

Builder = Callable[[Path, Sequence[PlannedCell]], dict[str, Artefacts]]


@dataclass
class SweepResult:
    """Numbers of a finished sweep.

    Attributes
    ----------
    folder : Path
        Of the experiment's tables.
    ran, reused : int
        Different runs.
    failures : dict
        By cell digest.
    unwritten : str or None
        Why record or tables could not be written (disk full); runs that were finished are kept.
    """

    folder: Path
    ran: int = 0
    reused: int = 0
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    unwritten: str | None = None


def run_sweep(
    experiment: Experiment,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    *,
    device: str,
    cells: Sequence[PlannedCell] | None = None,
    build: Builder = build_in_child,
    figures: bool = True,
) -> SweepResult:
    """Run the missing cells of an experiment.

    Parameters
    ----------
    cells : sequence of PlannedCell or None
        Only these (``--only``); the record and the tables still name every cell of the experiment.
    build : callable
        Makes the files that cells share: ``(results, planned cells) -> {cell digest: Artefacts}``.
    figures : bool
        Draw the figure too.

    Raises
    ------
    UserError
        Something the user can mend, found before any cell ran; nothing is left behind.
    """
    created = [path for path in (results, *results.parents) if not path.exists()]
    with ExitStack() as kept:
        try:
            every = {cell.cell: cell for cell in experiment.cells}
            chosen = with_retrievers(list(experiment.cells if cells is None else cells), every)
            plan, artefacts = _ready(chosen, results, reporter, engine, build, kept)
            _note_coverage(plan, artefacts, reporter)
        except UserError:
            _undo(created)
            raise
        sweep = SweepResult(record.folder(results, experiment.name), reused=plan.count("exists"))
        _record(results, experiment, sweep)
        with reporter.running(
            len({s.cell for s in plan.states}), sweep.reused, plan.seconds_left(engine.workers)
        ):
            _run(plan, artefacts, experiment, results, engine, reporter, device, sweep)
    _finish(experiment, results, reporter, sweep, figures)
    return sweep


def _finish(
    experiment: Experiment, results: Path, reporter: Reporter, sweep: SweepResult, figures: bool
) -> None:
    """Write and show the tables."""
    if record.read(results, experiment.name) is None:
        return
    try:
        if experiment.spec.candidates.retriever is not None:
            from recbole_kd.benchmark.candidate_ranks import write_candidate_ranks

            write_candidate_ranks(experiment, results, reporter.note)
        _write_outputs(sweep.folder, figures)
    except (StoreError, OSError) as error:
        sweep.unwritten = str(error)
    reporter.table(sweep.folder, final=True)


def _ready(
    chosen: Sequence[PlannedCell],
    results: Path,
    reporter: Reporter,
    engine: Engine,
    build: Builder,
    kept: ExitStack,
) -> tuple[Plan, dict[str, Artefacts]]:
    """Plan, and the files of the cells to run, made before the first of them starts.

    A running cluster is asked before anything is built, and only if there is something to run: its workers
    are counted in the estimate, a wrong address is found at once. A teacher that is written anew may differ
    from the one that existing cells had; those are then to be run again too, hence the loop.

    Parameters
    ----------
    kept : ExitStack
        Holds a cluster that was entered until the sweep ends.
    """
    artefacts: dict[str, Artefacts] = {}
    asked = not engine.remote
    while True:
        plan = make_plan(chosen, results)
        for state, aside in tidy(results, plan):
            reporter.note(f"{state.planned.label}: {state.reason}; set aside as {aside.name} and run again")
        todo = [state.planned for state in plan.todo()]
        if todo and not asked:
            kept.enter_context(engine)
            asked = True
        fresh = [cell for cell in todo if cell.cell not in artefacts]
        if fresh or not artefacts:
            reporter.planned(plan, engine.workers)
        if not fresh:
            return plan, artefacts
        _check_writable(results)
        artefacts |= build(results, fresh)


def _note_coverage(plan: Plan, artefacts: dict[str, Artefacts], reporter: Reporter) -> None:
    """Name every teacher that does not know all users: the others contribute nothing to distillation."""
    said = set()
    for state in plan.todo():
        label, coverage = state.planned.label, artefacts[state.cell].coverage
        if coverage is not None and coverage < 1 and (label.dataset, label.variant) not in said:
            said.add((label.dataset, label.variant))
            reporter.note(f"{label.dataset} {label.variant}: profiles for {coverage:.0%} of the train users")


def _check_writable(results: Path) -> None:
    probe = results / ".write-test"
    rundir.write_text_atomic(probe, "")
    probe.unlink(missing_ok=True)


def _run(
    plan: Plan,
    artefacts: dict[str, Artefacts],
    experiment: Experiment,
    results: Path,
    engine: Engine,
    reporter: Reporter,
    device: str,
    sweep: SweepResult,
) -> None:
    todo = {state.cell: state for state in plan.todo()}
    if not todo:
        return
    tasks = [_task(state, artefacts[cell], experiment, results, device) for cell, state in todo.items()]
    waiting = Counter(_group(state) for state in todo.values())
    with _terminate_as_interrupt(), closing(_in_turn(engine, tasks, todo)) as outcomes:
        for raw in outcomes:
            state, outcome = todo[raw.cell], _checked(raw, results)
            if outcome.status == FAILED:
                sweep.failures[outcome.cell] = _failure(state, outcome)
                _record(results, experiment, sweep)
            else:
                sweep.ran += 1
            reporter.finished(state, outcome, _headline(results, outcome, experiment.spec.metrics[0]))
            waiting[_group(state)] -= 1
            more = +waiting
            if more and _group(state) not in more:
                reporter.table(sweep.folder, final=False)
    _record(results, experiment, sweep)


def _in_turn(engine: Engine, tasks: Sequence[CellTask], todo: dict[str, CellState]) -> Outcomes:
    """Outcomes of all tasks; what re-ranks starts when the cells that retrieve have ended."""
    later = [task for task in tasks if needs(todo[task.cell].planned.spec) is not None]
    first = [task for task in tasks if needs(todo[task.cell].planned.spec) is None]
    for wave in (first, later):
        if wave:
            with closing(engine.run(wave)) as outcomes:
                yield from outcomes


def _record(results: Path, experiment: Experiment, sweep: SweepResult) -> None:
    """Write the record; a full disk must not end the cells that still can be finished elsewhere."""
    try:
        record.write(results, experiment, sweep.failures)
    except StoreError as error:
        sweep.unwritten = str(error)
    else:
        sweep.unwritten = None


def _group(state: CellState) -> tuple[str, str]:
    """Cells of one group complete a comparison."""
    return state.planned.label.dataset, state.planned.label.backbone


def _task(state: CellState, files: Artefacts, experiment: Experiment, results: Path, device: str) -> CellTask:
    planned = state.planned
    spec = experiment.spec
    return CellTask.build(
        results,
        planned.cell,
        planned.label,
        planned.spec,
        files,
        device,
        tuple(spec.metrics),
        spec.diagnostics,
    )


def _checked(outcome: Outcome, results: Path) -> Outcome:
    """Believe a worker only when its run can be read from here."""
    path = rundir.run_path(results, outcome.cell)
    if outcome.status == FAILED or (path / rundir.MANIFEST).is_file():
        return outcome
    error = f"{path}: a worker wrote this run elsewhere; workers must share the results folder"
    return replace(outcome, status=FAILED, error=error, trace=error)


def _failure(state: CellState, outcome: Outcome) -> dict[str, Any]:
    return {
        **state.planned.label.canonical(),
        "cell": outcome.cell,
        "error": first_line(outcome.error),
        "traceback": outcome.trace,
        "seconds": round(outcome.seconds, 3),
    }


def _headline(results: Path, outcome: Outcome, metric: str) -> tuple[str, float] | None:
    if outcome.status == FAILED:
        return None
    manifest = rundir.read_manifest(rundir.run_path(results, outcome.cell))
    value = manifest["metrics"]["test"].get(metric)
    return None if value is None else (metric, float(value))


def _write_outputs(folder: Path, figures: bool) -> None:
    from analysis.write import write_outputs

    write_outputs(folder, figures=figures)


def _undo(created: list[Path]) -> None:
    """Remove folders that did not exist before and hold no run (bad input leaves nothing behind)."""
    if not created or any(rundir.finished(created[0])):
        return
    shutil.rmtree(created[0], ignore_errors=True)
    for parent in created[1:]:
        if not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM (batch systems) end a sweep as Ctrl-C does: workers stop, the record stays whole."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
