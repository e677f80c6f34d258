"""What the benchmark scripts share: the split, the clock, the curve and the file of ranks."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from recbole_kd.benchmark.machine import peak_memory_mb
from recbole_kd.data.load import load_dataset
from recbole_kd.data.spec import read_dataset_spec
from recbole_kd.data.split import make_split
from recbole_kd.data.types import Split
from recbole_kd.errors import UserError
from recbole_kd.metrics import per_user

BACKBONES = ("SASRec", "GRU4Rec", "BERT4Rec")
METRICS = ("NDCG@10", "Recall@10")


class Enough(Exception):
    """Ends a training loop from inside when the asked level or budget is reached."""


def enough(args: argparse.Namespace, ndcg: float, cpu: float) -> str | None:
    """Why the run may end now (``--stop-at``, ``--max-cpu``), or None."""
    if args.stop_at is not None and ndcg >= args.stop_at:
        return f"validation NDCG@10 reached {args.stop_at}"
    if args.max_cpu is not None and cpu >= args.max_cpu:
        return f"{args.max_cpu:.0f} CPU-seconds of training are spent"
    return None


def one_thread() -> None:
    """Hold torch to one thread, so that systems are compared core for core."""
    import torch

    torch.set_num_threads(1)


def load_split(dataset: str) -> tuple[Split, int]:
    """Return the split of a dataset under ``properties/dataset`` and its ``max_item_list_length``."""
    spec = read_dataset_spec(dataset)
    return make_split(load_dataset(spec), spec.split), spec.max_item_list_length


@dataclass(frozen=True)
class Point:
    """One validation measurement.

    Attributes
    ----------
    epoch : int
        From 1; the epoch under way or just finished.
    step : int
        Optimiser steps done.
    cpu, wall : float
        Training seconds so far.
    ndcg, recall : float
        At 10, on validation, all items ranked, seen items not removed, average rank for ties.
    epoch_end : bool
    peak_memory_mb : float
    """

    epoch: int
    step: int
    cpu: float
    wall: float
    ndcg: float
    recall: float
    epoch_end: bool
    peak_memory_mb: float


class Clock:
    """CPU and wall seconds of the stretches between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin a stretch."""
        self._since = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """End the stretch; a stopped clock stays stopped."""
        if self._since is not None:
            self.cpu += time.process_time() - self._since[0]
            self.wall += time.perf_counter() - self._since[1]
            self._since = None


class Curve:
    """Validation curve, written to ``curve.jsonl`` point by point, so that an interrupted run is of use.

    It begins empty when its first point is added, unless :meth:`resume` was called.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "curve.jsonl"
        self.clock = clock
        self.points: list[Point] = []

    def resume(self, epoch: int) -> None:
        """Go on after ``epoch``: keep the points up to there, and their seconds on the clock.

        Raises
        ------
        UserError
            The file has no point at the end of that epoch.
        """
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        # A killed process may have left half a line.
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        self.points = [p for p in (Point(**json.loads(line)) for line in whole) if p.epoch <= epoch]
        if not self.points or self.points[-1].epoch != epoch:
            raise UserError(f"{self.path}: lacks epoch {epoch} of the checkpoint beside it; delete that one")
        self.clock.cpu += self.points[-1].cpu
        self.clock.wall += self.points[-1].wall
        beside = self.path.with_suffix(".tmp")
        beside.write_text("".join(map(_line, self.points)), encoding="utf-8")
        os.replace(beside, self.path)

    def add(self, *, epoch: int, step: int, ndcg: float, recall: float, epoch_end: bool) -> Point:
        """Add a point at the clock's present reading."""
        point = Point(
            epoch, step, self.clock.cpu, self.clock.wall, ndcg, recall, epoch_end, round(peak_memory_mb(), 1)
        )
        with self.path.open("a" if self.points else "w", encoding="utf-8") as file:
            file.write(_line(point))
        self.points.append(point)
        print(
            f"epoch {epoch} step {step} cpu {point.cpu:.1f}s NDCG@10 {ndcg:.4f} Recall@10 {recall:.4f} "
            f"peak {point.peak_memory_mb:.0f} MB",
            flush=True,
        )
        return point


def _line(point: Point) -> str:
    return json.dumps(asdict(point)) + "\n"


def read_curve(folder: Path) -> list[Point]:
    """Points of a run, in order."""
    lines = (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    return [Point(**json.loads(line)) for line in lines]


def first_reach(points: list[Point], level: float, *, held: bool) -> Point | None:
    """First point at or above ``level``; with ``held``, the first from which it is never left again."""
    found: Point | None = None
    for point in points:
        if point.ndcg < level:
            found = None if held else found
        elif found is None:
            found = point
    return found


def quality(rank: ArrayLike) -> dict[str, float]:
    """Mean of each of ``METRICS`` over users."""
    return {metric: float(per_user(rank, metric).mean()) for metric in METRICS}


def write_ranks(path: Path, split: Split, ranks: dict[str, NDArray[Any]]) -> None:
    """Write ``split, user, item, rank`` rows, as the run directories have them.

    Parameters
    ----------
    path : Path
        Parquet.
    split : Split
    ranks : dict
        ``valid`` and ``test`` -> average-tie ranks in the row order of that part.
    """
    frames = []
    for part, rank in ranks.items():
        rows = getattr(split, part)
        frames.append(
            pd.DataFrame(
                {
                    "split": part,
                    "user": split.dataset.user_tokens[rows.history.users].astype(str),
                    "item": split.dataset.item_tokens[rows.targets].astype(str),
                    "rank": np.asarray(rank, np.float32),
                }
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    pd.concat(frames, ignore_index=True).to_parquet(beside, index=False)
    os.replace(beside, path)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``; its presence says that the run came to its end."""
    beside = folder / "summary.json.tmp"
    beside.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, folder / "summary.json")


class Watch(Protocol):
    """What a rival's validation callback has recorded when its training has ended."""

    clock: Clock
    curve: Curve
    ended: str
    best_epoch: int
    eval_seconds: float


def write_rival(
    system: str,
    args: argparse.Namespace,
    hparams: dict[str, Any],
    watch: Watch,
    split: Split,
    ranks: dict[str, NDArray[Any]],
) -> dict[str, Any]:
    """Write ranks and summary of a system that trained itself; return the summary.

    Parameters
    ----------
    system : str
    args : Namespace
        Of `run_arguments`.
    hparams : dict
        In the system's own names.
    watch : Watch
    split : Split
    ranks : dict
        As `write_ranks` takes them.
    """
    write_ranks(args.out / "ranks.parquet", split, ranks)
    last = watch.curve.points[-1]
    summary = {
        "system": system,
        "model": args.model,
        "dataset": args.dataset,
        "seed": args.seed,
        "ended": watch.ended,
        "hparams": hparams,
        "epochs": last.epoch,
        "best_epoch": watch.best_epoch,
        "cpu_seconds": watch.clock.cpu,
        "wall_seconds": watch.clock.wall,
        "eval_seconds": watch.eval_seconds,
        "peak_memory_mb": last.peak_memory_mb,
        **{part: quality(rank) for part, rank in ranks.items()},
    }
    write_summary(args.out, summary)
    return summary


def run_arguments(description: str | None, models: Sequence[str] = BACKBONES) -> argparse.ArgumentParser:
    """Options that every single-run script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset", default="ml-100k", help="a name under properties/dataset")
    parser.add_argument("--model", choices=models, default="SASRec")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for curve, ranks and summary")
    parser.add_argument("--epochs", type=int, default=300, help="safety limit")
    parser.add_argument("--stop-at", type=float, help="stop at this validation NDCG@10 instead of converging")
    parser.add_argument("--max-cpu", type=float, help="stop after this many training CPU-seconds")
    return parser
