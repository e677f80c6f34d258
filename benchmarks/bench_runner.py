"""How much of a sweep's wall time is the runner's own.

    python -m benchmarks.bench_runner quickstart --only 'backbone=SASRec & seed=1' --workers 2

Runs the experiment into a fresh folder (or ``--results``) and splits the wall time at the events of
``--json``: start (imports, plan, splits and teachers, workers), cells, end (tables, figure). What is not
cells is compared with the cells' own time (their sum over the workers): in all, and without the start, most
of which is the building of splits and teachers when these are new. Workers that idle beside the last cell
count as the runner's; ``--workers 0`` or ``1`` measures it without that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Event = tuple[float, dict[str, Any]]


@dataclass(frozen=True)
class Shares:
    """Seconds of a sweep.

    Attributes
    ----------
    wall : float
        From the command to its exit.
    before, cells, after : float
        Until the first cell can have begun, until the last has ended, until the exit.
    work : float
        Sum over the cells of the seconds that a cell took by its own clock.
    workers : int
    """

    wall: float
    before: float
    cells: float
    after: float
    work: float
    workers: int

    @property
    def busy(self) -> float:
        """The cells' own time, per worker."""
        return self.work / self.workers

    @property
    def overhead(self) -> float:
        """Everything that is not cells, over the cells' own time."""
        return (self.wall - self.busy) / self.busy

    @property
    def overhead_between(self) -> float:
        """The same from the first cell on."""
        return (self.wall - self.before - self.busy) / self.busy


def split_wall(began: float, ended: float, events: list[Event]) -> Shares:
    """Split a sweep's wall time at its events (arrival time, event)."""
    cells = [(at, e) for at, e in events if e["event"] == "cell"]
    if not cells:
        raise SystemExit("no cell ran; use a fresh --results folder")
    workers = next(e["workers"] for _, e in events if e["event"] == "plan")
    first = min(at - e["seconds"] for at, e in cells)
    planned = next(at for at, e in events if e["event"] == "plan")
    last = max(at for at, _ in cells)
    work = sum(e["seconds"] for _, e in cells)
    # Between plan and first cell lie splits and teachers, and the start of the workers.
    return Shares(ended - began, max(first, planned) - began, last - first, ended - last, work, workers)


def measure(experiment: str, results: Path, options: list[str]) -> Shares:
    """Run a sweep and time its events."""
    command = [sys.executable, "run_benchmark.py", "run", experiment, "--results", str(results), "--json"]
    began = time.perf_counter()
    events: list[Event] = []
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events += [(time.perf_counter(), json.loads(line)) for line in process.stdout]
    if process.returncode:
        raise SystemExit(f"the sweep ended with status {process.returncode}")
    return split_wall(began, time.perf_counter(), events)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="quickstart")
    parser.add_argument("--only")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    options = ["--only", args.only] if args.only else []
    options += ["--workers", str(args.workers)] if args.workers is not None else []
    with tempfile.TemporaryDirectory() as fresh:
        shares = measure(args.experiment, args.results or Path(fresh), options)
    print(f"wall {shares.wall:.1f} s on {shares.workers} workers; cells {shares.work:.1f} s")
    print(f"before the first cell {shares.before:.1f} s (imports, plan, splits, teachers, workers)")
    print(f"cells {shares.cells:.1f} s; tables and figure {shares.after:.1f} s")
    print(f"overhead {shares.overhead:.1%} of the cells' time")
    print(f"overhead from the first cell on {shares.overhead_between:.1%}")


if __name__ == "__main__":
    main()
