"""Which cells an experiment needs, which exist, and how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import rooms, rundir
from recbole_kd.benchmark.derived import state_of
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.errors import StoreError

EXISTS, MISSING, CORRUPT = "exists", "missing", "corrupt"


@dataclass(frozen=True)
class CellState:
    """A planned cell and what is on disk.

    Attributes
    ----------
    status : str
        ``exists``, ``missing`` or ``corrupt``.
    reason : str or None
        Why it is corrupt.
    estimate : float or None
        Expected seconds from earlier cells of the same kind; ``None`` when there are none.
    """

    planned: PlannedCell
    status: str
    reason: str | None
    estimate: float | None

    @property
    def cell(self) -> str:
        """Address of the run."""
        return self.planned.cell


@dataclass(frozen=True)
class Plan:
    """States of all cells, in running order."""

    states: list[CellState]

    def todo(self) -> list[CellState]:
        """Cells to run, each address once."""
        first: dict[str, CellState] = {}
        for state in self.states:
            if state.status != EXISTS:
                first.setdefault(state.cell, state)
        return list(first.values())

    def count(self, status: str) -> int:
        """Number of different runs in a state."""
        return len({s.cell for s in self.states if s.status == status})

    def seconds_left(self, workers: int) -> float | None:
        """Expected wall-clock seconds of the missing cells; ``None`` when a kind was never run."""
        estimates = [s.estimate for s in self.todo()]
        known = [e for e in estimates if e is not None]
        if len(known) < len(estimates):
            return None
        return max(sum(known) / max(workers, 1), max(known, default=0.0))


def make_plan(cells: Iterable[PlannedCell], results: Path) -> Plan:
    """Look up every cell in a results folder (read only)."""
    history = durations(results)
    verdicts: dict[str, tuple[str, str | None]] = {}
    states = []
    for planned in cells:
        if planned.cell not in verdicts:
            verdicts[planned.cell] = _verdict(results, planned.cell)
        status, reason = verdicts[planned.cell]
        states.append(CellState(planned, status, reason, _expected(planned, history)))
    return Plan(states)


def _verdict(results: Path, cell: str) -> tuple[str, str | None]:
    path = rundir.run_path(results, cell)
    if not path.exists():
        return MISSING, None
    reason = rundir.fault(path, cell)
    if reason is None:
        manifest = rundir.read_manifest(path)
        checks = (_other_teacher, _other_recommender, _other_retriever)
        reason = next((said for check in checks if (said := check(results, path, manifest))), None)
    return (EXISTS, None) if reason is None else (CORRUPT, reason)


def _other_teacher(results: Path, path: Path, manifest: dict[str, Any]) -> str | None:
    """Say when the teacher's vectors were built anew since and differ (an LLM may write other texts)."""
    read = (manifest.get("inputs") or {}).get("users") or {}
    return _changed(
        results, path, "its teacher's", manifest.get("profile_file"), manifest.get("profile_digest")
    ) or _changed(results, path, "its profiles'", manifest.get("inputs_file"), read.get("digest"))


def _other_retriever(results: Path, path: Path, manifest: dict[str, Any]) -> str | None:
    """Say when the run that a cell re-ranks was replaced, at its own address, by one with other ranks."""
    ranker = manifest.get("ranker") or {}
    return _replaced(results, path, "retriever", ranker.get("retriever"), ranker.get("retriever_run"))


def _other_recommender(results: Path, path: Path, manifest: dict[str, Any]) -> str | None:
    """Say when the recommender whose lists a cell learned was replaced, likewise."""
    used = manifest.get("lists_run") or {}
    return _replaced(results, path, "teacher", used.get("run"), used.get("state"))


def _replaced(results: Path, path: Path, whose: str, cell: object, used: object) -> str | None:
    """Compare the state of a run that another one was made from with its state now; gone is no other."""
    run = rundir.run_path(results, str(cell))
    if used is None or not run.is_dir() or rundir.fault(run, run.name) is not None or state_of(run) == used:
        return None
    return f"{path}: its {whose} {run.name} has been trained again and ranks otherwise"


def _changed(results: Path, path: Path, whose: str, used: object, digest: object) -> str | None:
    """Compare an embedding file that a run read with what lies there now."""
    if not isinstance(used, dict):
        return None
    file = rooms.profiles_folder(results) / Path(str(used.get("name"))).name
    if not file.is_file() or rooms.digest_of(file) == used.get("sha256"):
        return None
    from recbole_kd.data.profile_table import read_embedding_file

    now = read_embedding_file(file)[0].digest()
    return None if now == digest else f"{path}: {whose} vectors have changed ({digest}, now {now})"


Kind = tuple[str, str]


def kind_of(planned: PlannedCell) -> Kind:
    """Cells of one kind (dataset, student class) take about as long as each other."""
    student = planned.spec.student
    if planned.spec.ranker is not None:
        return planned.label.dataset, str(planned.spec.ranker["spec"]["name"])
    return planned.label.dataset, _kind(
        student.model, None if student.system is None else student.system.name
    )


def _expected(planned: PlannedCell, history: dict[Kind, float]) -> float | None:
    known = history.get(kind_of(planned))
    if known is None or planned.spec.ranker is None:
        return known
    from recbole_kd.benchmark.ranker_work import planned_tokens

    tokens = planned_tokens(planned.spec)
    return None if tokens is None else known * tokens


def _kind(model: str, system: object) -> str:
    return model if system is None else f"{model}+{system}"


def durations(results: Path) -> dict[Kind, float]:
    """Median seconds of the finished cells of every kind; of rankers: per token (``ranker_work``)."""
    seen: dict[Kind, list[float]] = {}
    for path in rundir.finished(results):
        try:
            manifest = rundir.read_manifest(path)
            kind = (
                str(manifest["written_as"]["dataset"]),
                _kind(str(manifest["model"]), manifest.get("system")),
            )
            seen.setdefault(kind, []).append(_took(manifest))
        except (StoreError, KeyError, TypeError, ValueError):
            continue
    return {kind: statistics.median(values) for kind, values in seen.items()}


def _took(manifest: dict[str, Any]) -> float:
    if "ranker" not in manifest:
        return float(manifest["seconds"]["total"])
    from recbole_kd.benchmark.ranker_work import seconds_per_token

    return seconds_per_token(manifest)


def tidy(results: Path, plan: Plan) -> list[tuple[CellState, Path]]:
    """Set corrupt runs of the plan aside and delete what interrupted processes left.

    A folder is touched only under the lock of its cell, so that nothing is taken from a process
    at work.

    Returns
    -------
    list of (state, new path)
        The runs that were set aside.
    """
    import shutil

    for cell, path in rundir.orphans(results):
        with try_lock(results, f"cell-{cell}") as held:
            if held:
                shutil.rmtree(path, ignore_errors=True)
    moved = []
    for state in plan.todo():
        if state.status != CORRUPT:
            continue
        with try_lock(results, f"cell-{state.cell}") as held:
            path = rundir.run_path(results, state.cell)
            if held and path.exists() and _verdict(results, state.cell)[0] == CORRUPT:
                moved.append((state, rundir.set_aside(path)))
    return moved


def rows(plan: Plan) -> list[dict[str, Any]]:
    """JSON-ready rows of a plan."""
    return [
        {
            **s.planned.label.canonical(),
            "model": s.planned.spec.student.model if s.planned.spec.ranker is None else kind_of(s.planned)[1],
            "cell": s.cell,
            "status": s.status,
            "reason": s.reason,
            "estimate_seconds": None if s.estimate is None else round(s.estimate, 1),
        }
        for s in plan.states
    ]
