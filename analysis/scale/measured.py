"""Rates that the files of a study hold; ``read`` of an assumption names the one it is exchanged for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.load import Results
from analysis.run_files import read_json
from analysis.scale.assumptions import Assumption, Assumptions
from recbole_kd.errors import SpecError

LATENCY = "latency.json"


@dataclass(frozen=True)
class Measurement:
    """A rate, and where it is from in words."""

    value: float
    source: str


def _runs(results: Results, *, distilled: bool | None = None, device: str = "cpu") -> list[Mapping[str, Any]]:
    """Manifests of finished runs on one kind of device; each once."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in results.done.itertuples():
        manifest = results.manifests[row.cell]
        taught = row.variant != results.baseline
        if str(manifest.get("device", "")).split(":")[0] == device and distilled in (None, taught):
            found[str(row.cell)] = manifest
    return list(found.values())


def _median(values: Sequence[float], what: str) -> Measurement | None:
    if not values:
        return None
    plural = "run" if len(values) == 1 else "runs"
    return Measurement(float(np.median(values)), f"{what}, median of {len(values)} {plural} of this study")


def _per_interaction(manifest: Mapping[str, Any]) -> float:
    """Interactions that were trained on per second."""
    seen = float(manifest["counts"]["train_interactions"]) * float(manifest["epochs"])
    return seen / float(manifest["seconds"]["train"])


def _train_rate(results: Results, device: str) -> Measurement | None:
    runs = _runs(results, distilled=False, device=device)
    return _median([_per_interaction(m) for m in runs], f"manifests, plain student on {device}")


def _epochs(results: Results) -> Measurement | None:
    runs = [m for m in _runs(results) if m.get("stopped_early") is not False]
    return _median([float(m["epochs"]) for m in runs], "manifests, epochs until early stopping")


def _interactions(results: Results) -> Measurement | None:
    counts = [m["counts"] for m in _runs(results)]
    each = [c["train_interactions"] / c["train_users"] for c in counts]
    return _median(each, "manifests, train interactions per user")


_NEAR = 3  # epochs on either side of the end of distillation


def _distil_factor(results: Results) -> Measurement | None:
    """Seconds of the last distilling epochs over the first fine-tuning ones of a run; never below 1 (noise).

    Neighbours in time met the same machine; a plain run may have been timed under another load. A run that
    distils to its end says nothing.
    """
    ratios = []
    for row in results.done.itertuples():
        history = results.history(row.cell)
        if not {"phase", "seconds"} <= set(history):
            continue
        taught, plain = (
            history.loc[history["phase"] == phase, "seconds"] for phase in ("distil", "fine-tune")
        )
        if len(taught) and len(plain):
            ratios.append(max(1.0, float(taught.tail(_NEAR).median() / plain.head(_NEAR).median())))
    return _median(
        ratios, f"epoch tables, the last {_NEAR} epochs that distil over the next {_NEAR} of the same run"
    )


def _distil_share(results: Results) -> Measurement | None:
    shares = []
    for row in results.done.itertuples():
        history = results.history(row.cell)
        if row.variant != results.baseline and len(history) and "phase" in history:
            shares.append(float((history["phase"] == "distil").mean()))
    return _median(shares, "epoch tables, share of epochs that distil")


def _small_writer(results: Results) -> Measurement | None:
    rates = []
    for manifest in _runs(results, distilled=True):
        cost, users = manifest.get("cost") or {}, manifest["counts"]["train_users"]
        if cost.get("llm_calls") and cost.get("llm_seconds"):
            rates.append(float(cost["llm_seconds"]) / users)
    return _median(rates, "manifests, wall seconds of the local writer per user, taken for CPU-seconds")


def _student_seconds(results: Results) -> Measurement | None:
    """p50 of single requests to distilled students, the fastest form."""
    path = results.directory / LATENCY
    if not Path(path).is_file():
        return None
    rows = [r for r in read_json(path)["rows"] if r["batch"] == 1 and r["ratio"] is not None]
    if not rows:
        return None
    best = min(rows, key=lambda r: r["p50"])
    return Measurement(
        best["p50"] / 1e3,
        f"serve-latency, p50 of {best['rounds']} single requests, wall time, {best['form']}",
    )


READERS: dict[str, Callable[[Results], Measurement | None]] = {
    "train-rate": lambda results: _train_rate(results, "cpu"),
    "gpu-train-rate": lambda results: _train_rate(results, "cuda"),
    "epochs": _epochs,
    "interactions": _interactions,
    "distil-factor": _distil_factor,
    "distil-share": _distil_share,
    "small-writer": _small_writer,
    "student-seconds": _student_seconds,
}


def with_measured(given: Assumptions, results: Results, where: str) -> Assumptions:
    """Lines with ``read`` exchanged for what the study's own files say, where they say it.

    A range is widened where it does not hold the measured value.

    Raises
    ------
    SpecError
        A line names a reader that nobody knows.
    """
    lines: dict[str, Assumption] = {}
    for name, line in given.lines.items():
        if line.read is not None and line.read not in READERS:
            near = difflib.get_close_matches(line.read, READERS, n=1, cutoff=0)
            raise SpecError(f"{where}: {name}.read: no reader '{line.read}'; did you mean '{near[0]}'?")
        found = READERS[line.read](results) if line.read is not None else None
        lines[name] = line if found is None else _exchanged(line, found)
    return replace(given, lines=lines)


def _exchanged(line: Assumption, found: Measurement) -> Assumption:
    span = line.range
    if span is not None:
        span = (min(span[0], found.value), max(span[1], found.value))
    return line.model_copy(
        update={"value": found.value, "basis": "measured", "source": found.source, "range": span}
    )
