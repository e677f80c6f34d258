"""What a sweep says while it runs: lines and tables for people, or one JSON object per event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from recbole_kd.benchmark.executor import DONE, FAILED, Outcome
from recbole_kd.benchmark.plan import CellState, Plan

# Columns of a table that goes into a file or a pipe.
_PIPE_WIDTH = 140


class Reporter(Protocol):
    """Told about everything that a sweep does."""

    def planned(self, plan: Plan, workers: int) -> None:
        """The plan was made; nothing runs yet."""
        ...

    def note(self, message: str) -> None:
        """Something a reader should know, such as a corrupt run that was set aside."""
        ...

    def finished(self, state: CellState, outcome: Outcome, metric: tuple[str, float] | None) -> None:
        """A cell ended."""
        ...

    def table(self, folder: Path, final: bool) -> None:
        """A comparison is complete, or (``final``) everything is."""
        ...

    @contextmanager
    def running(self, total: int, done: int, estimate: float | None) -> Iterator[None]:
        """Frame around the cells: progress bar, time left."""
        ...


class JsonReporter:
    """One JSON object per line on standard output."""

    def _say(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), flush=True)  # noqa: T201

    def planned(self, plan: Plan, workers: int) -> None:
        """See :class:`Reporter`."""
        self._say(
            "plan",
            cells=len({s.cell for s in plan.states}),
            exist=plan.count("exists"),
            to_run=len(plan.todo()),
            workers=workers,
            estimate_seconds=plan.seconds_left(workers),
        )

    def note(self, message: str) -> None:
        """See :class:`Reporter`."""
        self._say("note", message=message)

    def finished(self, state: CellState, outcome: Outcome, metric: tuple[str, float] | None) -> None:
        """See :class:`Reporter`."""
        values: dict[str, Any] = {
            **state.planned.label.canonical(),
            "cell": outcome.cell,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
        }
        if metric is not None:
            values[metric[0]] = metric[1]
        if outcome.resumed_at:
            values["resumed_at"] = list(outcome.resumed_at)
        if outcome.error is not None:
            values |= {"error": outcome.error, "traceback": outcome.trace}
        self._say("cell", **values)

    def table(self, folder: Path, final: bool) -> None:
        """See :class:`Reporter`."""
        if final:
            self._say("end", folder=str(folder))

    @contextmanager
    def running(self, total: int, done: int, estimate: float | None) -> Iterator[None]:
        """See :class:`Reporter`."""
        yield


class RichReporter:
    """Lines, a progress bar and tables on the terminal.

    Parameters
    ----------
    quiet : bool
        Only failures and the final table.
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(soft_wrap=True, highlight=False)
        if not self._console.is_terminal:
            self._console.width = _PIPE_WIDTH
        self._errors = Console(stderr=True, soft_wrap=True, highlight=False)
        self._quiet = quiet
        self._progress: Any = None
        self._total = self._done = self._ran = 0
        self._began = time.monotonic()
        self._estimate: float | None = None
        self._workers = 1
        self._took: list[float] = []

    def planned(self, plan: Plan, workers: int) -> None:
        """See :class:`Reporter`."""
        self._workers = max(workers, 1)
        if self._quiet:
            return
        cells, todo = len({s.cell for s in plan.states}), len(plan.todo())
        line = f"{cells} cells: {cells - todo} exist, {todo} to run"
        left = plan.seconds_left(workers)
        if todo:
            line += f" on {workers} worker{'s' * (workers != 1)}"
            line += f", about {duration(left)} judging by earlier runs" if left is not None else ""
        self._console.print(line)

    def note(self, message: str) -> None:
        """See :class:`Reporter`."""
        if not self._quiet:
            self._console.print(message, markup=False)

    def finished(self, state: CellState, outcome: Outcome, metric: tuple[str, float] | None) -> None:
        """See :class:`Reporter`."""
        self._done += 1
        self._ran += 1
        if outcome.status == DONE:
            self._took.append(outcome.seconds)
        label = state.planned.label
        method = f"{label.backbone} {label.variant}"
        head = f"{method:<26} {label.dataset:<12} seed {label.seed:<4}"
        place = f"[{self._done}/{self._total}]"
        if outcome.status == FAILED:
            self._errors.print(f"{head} FAILED: {first_line(outcome.error)}  {place}", markup=False)
        elif not self._quiet:
            value = f"{metric[0]} {metric[1]:.4f}" if metric is not None else ""
            took = duration(outcome.seconds) if outcome.status == DONE else "by another process"
            left = self._left()
            tail = f"  {duration(left)} left" if left is not None and self._done < self._total else ""
            if outcome.resumed_at:
                tail += f"  resumed at epoch {', '.join(map(str, outcome.resumed_at))}"
            self._console.print(f"{head} {value:<16} {took:>8}  {place}{tail}", markup=False)
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, left=self._left_text())

    def table(self, folder: Path, final: bool) -> None:
        """See :class:`Reporter`."""
        if self._quiet and not final:
            return
        from analysis.load import load_results
        from analysis.tables import console_table, protocol_lines

        results = load_results(folder)
        self._console.print(console_table(results))
        if final and not self._quiet:
            for line in protocol_lines(results):
                self._console.print(line, markup=False)
            self._console.print(f"tables, figure and report: {folder}/", markup=False)

    @contextmanager
    def running(self, total: int, done: int, estimate: float | None) -> Iterator[None]:
        """See :class:`Reporter`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._total, self._done, self._ran, self._took = total, done, 0, []
        self._estimate, self._began = estimate, time.monotonic()
        if self._quiet or not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("cells"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as self._progress:
            self._task = self._progress.add_task("cells", total=total, completed=done, left=self._left_text())
            yield
        self._progress = None

    def _left(self) -> float | None:
        """Seconds left, from the pace of this sweep once every worker has ended two cells.

        Before that the cells at work, of which nothing is known but that they are, would count for nothing:
        each worker's is taken to be half done, and as long as those that have ended.
        """
        elapsed, left = time.monotonic() - self._began, self._total - self._done
        if self._ran >= 2 * self._workers:
            return elapsed / self._ran * left
        if self._took:
            rounds = max(left - self._workers / 2, 0.5) / self._workers
            return sum(self._took) / len(self._took) * rounds
        return None if self._estimate is None else max(self._estimate - elapsed, 0.0)

    def _left_text(self) -> str:
        left = self._left()
        return "" if left is None else f"{duration(left)} left"


def duration(seconds: float | None) -> str:
    """Seconds as ``8.3 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def first_line(text: str | None) -> str:
    """First line of an error message."""
    return (text or "unknown error").strip().splitlines()[0]
