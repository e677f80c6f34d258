"""What a study makes besides its runs; a step is a function and a line in ``AFTER``."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from recbole_kd.benchmark.study.spec import StepSpec
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

After = Callable[[Path, Any], object]


def _last_k(folder: Path, ks: Any) -> object:
    """Ranks after the last k items of every test history (``docs/report.md``)."""
    from recbole_kd.benchmark.executor import limit_threads
    from recbole_kd.benchmark.extras.last_k import write_last_k

    limit_threads()
    return write_last_k(folder, [int(k) for k in ks])


def _grounding(folder: Path, _: Any) -> object:
    """Grounding scores of the profiles (``grounding.parquet``)."""
    from recbole_kd.benchmark.extras.grounding import write_grounding

    return write_grounding(folder)


def _refresh(folder: Path, of: Any) -> object:
    """What the refresh policies took until the training (``refresh.json``)."""
    from recbole_kd.benchmark.study.refresh import write_refresh

    return write_refresh(folder, of)


def _serve_latency(folder: Path, batches: Any) -> object:
    """Times of single requests (``latency.json``), by plain and distilled students."""
    from recbole_kd.benchmark.executor import limit_threads
    from recbole_kd.benchmark.extras.latency import write_latency

    limit_threads()
    return write_latency(folder, [int(n) for n in batches])


AFTER: dict[str, After] = {
    "last-k": _last_k,
    "grounding": _grounding,
    "refresh": _refresh,
    "serve-latency": _serve_latency,
}
"""Step -> function of the experiment's folder and the argument that the YAML gives; runs for every part."""


def run_after(asked: dict[str, StepSpec] | None, folder: Path, place: str) -> None:
    """Make what a study asks for under ``after``.

    Parameters
    ----------
    folder : Path
        Of one part's experiment.
    place : str
        Where the part stands on the axis, in words.
    """
    for name, step in (asked or {}).items():
        if step.parts is None or any(fnmatchcase(place, pattern) for pattern in step.parts):
            AFTER[name](folder, step.of)


def check_steps(asked: dict[str, StepSpec] | None, where: object) -> None:
    """Refuse a step that nobody knows, before anything runs.

    Raises
    ------
    SpecError
    """
    for name in asked or {}:
        if name not in AFTER:
            raise SpecError(f"{where}: study.after: unknown step '{name}'{did_you_mean(name, AFTER)}")
