"""Time our students against RecBole's models on this machine, in one run.

    python -m benchmarks.bench_students                 # SASRec, GRU4Rec, BERT4Rec on ml-100k; about an hour
    python -m benchmarks.bench_students --quick         # one level, a few minutes per backbone

Same split, same hyper-parameters of the network, same validation measure; learning rate and batch are each
system's own, since a batch of sequences is not a batch of prefixes. Each system runs alone in a
process of its own with one thread, one after the other, ours first to its early stopping, then RecBole
until it has reached the highest level or its budget is spent. Printed are CPU-seconds: they hardly depend
on what else the machine is doing. ``first`` is the first measurement at or above a level, ``held`` the
first from which the curve never falls below it again. Our clock includes validation, RecBole's does not.
RecBole runs as it comes, with the anomaly detection that its import switches on (a NaN check on every
gradient, 1.5 to 2 times the time of a step; the numbers are the same without);
``--no-anomaly-detection`` runs it faster than its users have it.
Writes ``bench_students.json`` and ``bench_students.md`` to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import BACKBONES, Point, first_reach, read_curve

SYSTEMS = {
    "recbole_kd": "benchmarks.student_run",
    "RecBole": "benchmarks.recbole_reference",
    "RecTools": "benchmarks.rectools_reference",
    "RePlay": "benchmarks.replay_reference",
}
LEVELS = (0.03, 0.04, 0.05, 0.06)
QUICK_LEVEL = 0.04


@dataclass(frozen=True)
class Reach:
    """CPU-seconds to a validation NDCG@10; None where it was not reached."""

    level: float
    first: float | None
    held: float | None


@dataclass(frozen=True)
class Timing:
    """One system on one backbone.

    Attributes
    ----------
    epoch_cpu : float
        Training CPU-seconds per epoch; for RecBole scaled up from its steps if no epoch ended.
    peak_memory_mb : float
        Of the process.
    """

    system: str
    model: str
    epoch_cpu: float
    epoch_is_scaled: bool
    cpu_seconds: float
    best_ndcg: float
    peak_memory_mb: float
    ended: str
    reach: list[Reach]


def run_one(
    system: str,
    model: str,
    folder: Path,
    options: list[str],
    *,
    python: str = sys.executable,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Run one system in its own single-threaded process and return its summary.

    Raises
    ------
    subprocess.SubprocessError
        It failed, or took longer than ``timeout`` seconds.
    """
    command = [
        python,
        "-W",
        "ignore",
        "-m",
        SYSTEMS[system],
        "--model",
        model,
        "--out",
        str(folder),
        *options,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    print(f"-- {system} {model}", flush=True)
    root = Path(__file__).resolve().parents[1]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    subprocess.run(command, check=True, env=environment, cwd=root, timeout=timeout)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def timing(summary: dict[str, Any], points: list[Point], levels: tuple[float, ...]) -> Timing:
    """Reduce a run to what the table shows."""
    ends = [p for p in points if p.epoch_end]
    if ends:
        epoch_cpu = ends[-1].cpu / ends[-1].epoch
    else:
        epoch_cpu = points[-1].cpu / points[-1].step * summary["steps_per_epoch"]
    reached = [
        (first_reach(points, level, held=False), first_reach(points, level, held=True)) for level in levels
    ]
    return Timing(
        system=summary["system"],
        model=summary["model"],
        epoch_cpu=epoch_cpu,
        epoch_is_scaled=not ends,
        cpu_seconds=summary["cpu_seconds"],
        best_ndcg=max(p.ndcg for p in points),
        peak_memory_mb=max(p.peak_memory_mb for p in points),
        ended=summary["ended"],
        reach=[
            Reach(level, first.cpu if first else None, held.cpu if held else None)
            for level, (first, held) in zip(levels, reached, strict=True)
        ],
    )


def table(timings: list[Timing], *, held: bool) -> str:
    """Markdown: one line per backbone and level, ours beside RecBole's and the ratio.

    ``held`` adds the second kind of reach; it says nothing of runs that stop at their first.
    """
    lines = [
        "| backbone | | recbole_kd | RecBole | RecBole / recbole_kd |",
        "|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(t.model for t in timings):
        pair = {t.system: t for t in timings if t.model == model}
        ours, theirs = pair["recbole_kd"], pair["RecBole"]
        note = " (scaled up)" if theirs.epoch_is_scaled else ""
        lines.append(_line(model, "CPU-s per epoch", ours.epoch_cpu, theirs.epoch_cpu, note))
        for mine, other in zip(ours.reach, theirs.reach, strict=True):
            lines.append(
                _line(model, f"CPU-s to valid NDCG@10 {mine.level:g}, first", mine.first, other.first)
            )
            if held:
                lines.append(
                    _line(model, f"CPU-s to valid NDCG@10 {mine.level:g}, held", mine.held, other.held)
                )
        lines.append(
            f"| {model} | best valid NDCG@10 seen | {ours.best_ndcg:.4f} in {ours.cpu_seconds:.0f} s "
            f"| {theirs.best_ndcg:.4f} in {theirs.cpu_seconds:.0f} s | |"
        )
        lines.append(_line(model, "peak memory, MB", ours.peak_memory_mb, theirs.peak_memory_mb))
    return "\n".join(lines)


def _line(model: str, what: str, ours: float | None, theirs: float | None, note: str = "") -> str:
    shown = ["not reached" if value is None else f"{value:.1f}" for value in (ours, theirs)]
    ratio = "" if ours is None or theirs is None else f"{theirs / ours:.1f}x"
    return f"| {model} | {what} | {shown[0]} | {shown[1]}{note} | {ratio} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k", help="a name under properties/dataset")
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--levels", nargs="+", type=float, default=list(LEVELS), help="validation NDCG@10")
    parser.add_argument("--budget", type=float, default=1500, help="RecBole's CPU-seconds per backbone")
    parser.add_argument("--every", type=int, default=40, help="RecBole's steps between two measurements")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="RecBole's; 2048, its default, is slower on a CPU"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"only level {QUICK_LEVEL}, at most 400 CPU-seconds each"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/students"))
    parser.add_argument("--anomaly-detection", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    levels = (QUICK_LEVEL,) if args.quick else tuple(sorted(args.levels))
    both = ["--dataset", args.dataset, "--seed", str(args.seed)]
    ours = [*both, "--stop-at", str(QUICK_LEVEL)] if args.quick else both
    theirs = [*both, "--every", str(args.every), "--batch-size", str(args.batch_size)]
    theirs += ["--max-cpu", str(400 if args.quick else args.budget)]
    theirs += ["--stop-at", str(QUICK_LEVEL)] if args.quick else []
    theirs += [] if args.anomaly_detection else ["--no-anomaly-detection"]
    timings = []
    for model in args.models:
        network: list[str] = []
        for system, options in (("recbole_kd", ours), ("RecBole", theirs)):
            folder = args.out / f"{system}-{model}"
            summary = run_one(system, model, folder, [*options, *network])
            timings.append(timing(summary, read_curve(folder), levels))
            network = [f"--hparam={key}={json.dumps(value)}" for key, value in summary["hparams"].items()]
    text = table(timings, held=not args.quick)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    how = f"RecBole {'with' if args.anomaly_detection else 'without'} anomaly detection"
    text += f"\n\n{args.dataset}, seed {args.seed}, one thread each; {how}; {machine}"
    record = {
        "dataset": args.dataset,
        "seed": args.seed,
        "anomaly_detection": args.anomaly_detection,
        "machine": machine,
        "timings": [asdict(t) for t in timings],
    }
    (args.out / "bench_students.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (args.out / "bench_students.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()
