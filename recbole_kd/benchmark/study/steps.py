"""What a study makes besides its runs; a step is a function and a line in ``AFTER``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


AFTER: dict[str, After] = {"last-k": _last_k, "grounding": _grounding}
"""Step -> function of the experiment's folder and the argument that the YAML gives; runs for every part."""


def run_after(asked: dict[str, Any] | None, folder: Path) -> None:
    """Make what a study asks for under ``after``."""
    for name, argument in (asked or {}).items():
        AFTER[name](folder, argument)


def check_steps(asked: dict[str, Any] | None, where: object) -> None:
    """Refuse a step that nobody knows, before anything runs.

    Raises
    ------
    SpecError
    """
    for name in asked or {}:
        if name not in AFTER:
            raise SpecError(f"{where}: study.after: unknown step '{name}'{did_you_mean(name, AFTER)}")
