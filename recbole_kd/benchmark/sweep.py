"""Run an experiment: build what cells share, run what is missing, keep the record and the tables."""

from __future__ import annotations

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import record, rundir
from recbole_kd.benchmark.artefacts import (
    Artefacts,
    Builder,
    BuilderBeside,
    Making,
    build_in_child,
    needs_building,
)
from recbole_kd.benchmark.console import Reporter, first_line
from recbole_kd.benchmark.engines import Engine, Outcomes
from recbole_kd.benchmark.executor import FAILED, CellTask, Outcome
from recbole_kd.benchmark.late_tasks import LateTasks
from recbole_kd.benchmark.plan import EXISTS, CellState, Plan, make_plan, tidy
from recbole_kd.benchmark.rankers import needs, with_retrievers
from recbole_kd.benchmark.resolve import Experiment
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.errors import StoreError, UserError


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
    build_beside: BuilderBeside | None = None,
    figures: bool = True,
) -> SweepResult:
    """Run the missing cells of an experiment.

    Parameters
    ----------
    cells : sequence of PlannedCell or None
        Only these (``--only``); the record and the tables still name every cell of the experiment.
    build : callable
        Makes the files that cells share: ``(results, planned cells) -> {cell digest: Artefacts}``.
    build_beside : callable or None
        Starts to make them in another process: ``(results, first cells, other cells)``. With it, and an
        engine that ``overlaps``, a first sweep trains what needs a split only while profiles, item vectors
        and the like of the others are made.
    figures : bool
        Draw the figure too.

    Raises
    ------
    UserError
        Something the user can mend, found before any cell ran that could suffer from it; unless cells were
        finished meanwhile, nothing is left behind.
    """
    created = [path for path in (results, *results.parents) if not path.exists()]
    with ExitStack() as kept:
        try:
            every = {cell.cell: cell for cell in experiment.cells}
            chosen = with_retrievers(list(experiment.cells if cells is None else cells), every)
            plan, files = _ready(chosen, results, reporter, engine, (build, build_beside), kept)
            sweep = SweepResult(record.folder(results, experiment.name), reused=plan.count(EXISTS))
            _record(results, experiment, sweep)
            with reporter.running(
                len({s.cell for s in plan.states}), sweep.reused, plan.seconds_left(engine.workers)
            ):
                _run(plan, files, experiment, results, engine, reporter, device, sweep)
        except UserError:
            _undo(created)
            raise
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


@dataclass
class _Files:
    """What cells read: what is made, by cell, and what another process is still making."""

    made: dict[str, Artefacts]
    making: Making | None = None


def _ready(
    chosen: Sequence[PlannedCell],
    results: Path,
    reporter: Reporter,
    engine: Engine,
    builders: tuple[Builder, BuilderBeside | None],
    kept: ExitStack,
) -> tuple[Plan, _Files]:
    """Plan, and the files of the cells to run, made before the first of them starts or beside the first.

    A running cluster is asked before anything is built, and only if there is something to run: its workers
    are counted in the estimate, a wrong address is found at once. A teacher that is written anew may differ
    from the one that existing cells had; those are then to be run again too, hence the loop.

    Parameters
    ----------
    kept : ExitStack
        Holds a cluster that was entered, and a process that builds, until the sweep ends.
    """
    build, build_beside = builders
    files = _Files({})
    asked = not engine.remote
    while True:
        plan = make_plan(chosen, results)
        for state, aside in tidy(results, plan):
            reporter.note(f"{state.planned.label}: {state.reason}; set aside as {aside.name} and run again")
        todo = [state.planned for state in plan.todo()]
        if todo and not asked:
            kept.enter_context(engine)
            asked = True
        fresh = [cell for cell in todo if cell.cell not in files.made]
        if fresh or not files.made:
            reporter.planned(plan, engine.workers)
        if not fresh:
            return plan, files
        _check_writable(results)
        slow = [cell for cell in fresh if needs_building(cell.spec)]
        if build_beside is not None and engine.overlaps and _may_overlap(plan, slow):
            quick = [cell for cell in fresh if not needs_building(cell.spec)]
            files.making = kept.enter_context(build_beside(results, quick, slow))
            files.made |= files.making.result()
            return plan, files
        files.made |= build(results, fresh)


def _may_overlap(plan: Plan, slow: Sequence[PlannedCell]) -> bool:
    """Whether there are cells of both kinds, and none exists whose teacher may turn out to be another one."""
    existing = (s for s in plan.states if s.status == EXISTS)
    return 0 < len(slow) < len(plan.todo()) and not any(needs_building(s.planned.spec) for s in existing)


def _note_coverage(plan: Plan, artefacts: dict[str, Artefacts], reporter: Reporter) -> None:
    """Name every teacher that does not know all users: the others contribute nothing to distillation."""
    said = set()
    for state in plan.todo():
        if state.cell not in artefacts:
            continue
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
    files: _Files,
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
    turns = {cell: turn for turn, cell in enumerate(todo)}
    last: list[CellTask] = []  # re-rank what other cells retrieve

    def ready(made: dict[str, Artefacts]) -> list[CellTask]:
        _note_coverage(plan, made, reporter)
        first: list[CellTask] = []
        for cell in (cell for cell in todo if cell in made):
            task = _task(todo[cell], made[cell], experiment, results, device, turns[cell])
            (first if needs(todo[cell].planned.spec) is None else last).append(task)
        return first

    late = None
    if files.making is not None:
        late = LateTasks(files.making, len(todo) - len(files.made), ready)
    first = ready(files.made)
    waiting = Counter(_group(state) for state in todo.values())
    with _terminate_as_interrupt(), closing(_in_turn(engine, first, late, last)) as outcomes:
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


def _in_turn(
    engine: Engine, first: Sequence[CellTask], late: LateTasks | None, last: Sequence[CellTask]
) -> Outcomes:
    """Outcomes of all tasks; ``last`` may still grow while the others run."""
    if first or late is not None:
        with closing(engine.run(first, late)) as outcomes:
            yield from outcomes
    if last:
        with closing(engine.run(last)) as outcomes:
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


def _task(
    state: CellState, files: Artefacts, experiment: Experiment, results: Path, device: str, turn: int
) -> CellTask:
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
        turn,
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
    """Remove folders that did not exist before and hold nothing that took work (bad input leaves none)."""
    if not created or any(rundir.finished(created[0])) or _took_work(created[0]):
        return
    shutil.rmtree(created[0], ignore_errors=True)
    for parent in created[1:]:
        if not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


def _took_work(results: Path) -> bool:
    """Whether texts, vectors, lists, pre-trained weights or checkpoints lie there; splits cost seconds."""
    cache = results / "cache"
    return any(p.is_file() and p.relative_to(cache).parts[0] != "splits" for p in cache.rglob("*"))


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
