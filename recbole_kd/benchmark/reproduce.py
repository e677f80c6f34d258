"""Run one cell again from its run directory and compare the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.benchmark import machine, rooms, rundir
from recbole_kd.benchmark.artefacts import Artefacts, build_in_child
from recbole_kd.benchmark.executor import FAILED, CellTask, run_cell
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.rankers import needs
from recbole_kd.benchmark.spec import CellLabel, CellSpec, PlannedCell
from recbole_kd.benchmark.validate import validated
from recbole_kd.errors import ProfileError, StoreError, UserError

IDENTICAL, CLOSE, DIFFERENT = "identical", "within tolerance", "different"


@dataclass(frozen=True)
class Verdict:
    """Outcome of a reproduction.

    Attributes
    ----------
    status : str
        ``identical`` (every rank), ``within tolerance`` (every metric, on another device) or
        ``different``.
    moved : float
        Share of targets whose rank differs.
    metrics : dict
        Metric -> (then, now), on the test part.
    changes : dict
        What differs in code, versions and device: name -> (then, now).
    """

    status: str
    moved: float
    metrics: dict[str, tuple[float, float]]
    changes: dict[str, tuple[Any, Any]]


def load_cell(run: Path) -> tuple[PlannedCell, dict[str, Any]]:
    """Read a run directory back into a cell.

    Raises
    ------
    StoreError
        It is damaged, or was written by another version of the format.
    DataError, ProfileError
        The dataset, or a file of vectors, lists or confidences, is missing or is not the one that the run
        was made from.
    """
    manifest = rundir.read_manifest(run)
    cell = str(manifest.get("cell"))
    fault = rundir.fault(run, cell)
    if fault is not None:
        raise StoreError(fault)
    raw = yaml.safe_load((run / "spec.yaml").read_text(encoding="utf-8"))
    spec = validated(CellSpec, raw, f"{run / 'spec.yaml'}")
    if spec.address() != cell:
        raise StoreError(
            f"{run}: was made by a version with other cell addresses (this one: {spec.address()})"
        )
    found = rooms.dataset_source(spec.dataset)
    changed = [role for role, digest in spec.dataset_source.items() if found.get(role) != digest]
    if changed:
        raise StoreError(f"{run}: the dataset's .{changed[0]} file is not the one that the run was made from")
    rooms.check_given(spec)
    for role, found_now in rooms.confidence_source(spec.student, run).items():
        if (spec.teacher_source or {}).get(role) != found_now:
            raise StoreError(f"{run}: the file of confidences is not the one that the run was made from")
    try:
        rooms.check_weights(spec)
    except ProfileError as error:
        raise StoreError(f"{run}: {error}") from None
    label = CellLabel.model_validate(manifest["written_as"])
    return PlannedCell(label=label, spec=spec, cell=cell), manifest


def reproduce(run: Path, device: str, tolerance: float) -> Verdict:
    """Run the cell of ``run`` again, beside it, and compare.

    Parameters
    ----------
    run : Path
        A run directory; stays as it is.
    device : str
    tolerance : float
        Largest difference of a metric that still counts as the same on another device.
    """
    planned, manifest = load_cell(run)
    results = run.resolve().parent.parent
    files = build_in_child(results, [planned])[planned.cell]
    # The lock keeps a sweep that starts meanwhile from taking the folder for a leftover.
    with try_lock(results, f"cell-{planned.cell}") as held:
        if not held:
            raise UserError(f"{run}: another process is at this cell; try again when it has ended")
        with rundir.scratch(results, planned.cell) as folder:
            return _again(run, planned, manifest, files, folder, device, tolerance)


def _again(
    run: Path,
    planned: PlannedCell,
    manifest: dict[str, Any],
    files: Artefacts,
    folder: Path,
    device: str,
    tolerance: float,
) -> Verdict:
    metrics = tuple(manifest["metrics"]["test"])
    retriever = needs(planned.spec)
    if retriever is not None:
        _lend(run.resolve().parent.parent, folder, retriever)
    task = CellTask.build(folder, planned.cell, planned.label, planned.spec, files, device, metrics)
    outcome = run_cell(task)
    if outcome.status == FAILED:
        raise UserError(f"{run}: the cell failed this time: {outcome.error}")
    again = rundir.run_path(folder, planned.cell)
    return _compare(run, again, manifest, rundir.read_manifest(again), tolerance)


def _lend(results: Path, folder: Path, retriever: str) -> None:
    """Show a re-ranking cell its retriever's run and the cache: bought answers are not paid again."""
    rundir.runs_folder(folder).mkdir()
    rundir.run_path(folder, retriever).symlink_to(rundir.run_path(results, retriever))
    (folder / "cache").symlink_to(results / "cache")


def _compare(
    then: Path, now: Path, before: dict[str, Any], after: dict[str, Any], tolerance: float
) -> Verdict:
    import pyarrow.parquet as pq

    old, new = (pq.read_table(path / "ranks.parquet").to_pandas() for path in (then, now))
    keys = ["split", "user", "item"]
    both = old.astype({"split": str}).merge(
        new.astype({"split": str}), on=keys, how="outer", suffixes=("", "_now")
    )
    moved = float(
        ((both["rank"] != both["rank_now"]) | (both["rank_masked"] != both["rank_masked_now"])).mean()
    )
    tested = {
        name: (value, after["metrics"]["test"][name]) for name, value in before["metrics"]["test"].items()
    }
    gap = max(abs(a - b) for a, b in tested.values())
    same_device = _place(before) == _place(after)
    close = not same_device and gap <= tolerance
    status = IDENTICAL if moved == 0 else CLOSE if close else DIFFERENT
    return Verdict(status, moved, tested, _changes(before, after))


def _place(manifest: dict[str, Any]) -> tuple[Any, Any]:
    """Device and kind of processor: on another one, sums are rounded otherwise."""
    return manifest["device"], manifest["machine"].get("processor")


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    then = {**before["versions"], **before["code"], "device": before["device"], **before["machine"]}
    now = {**after["versions"], **after["code"], "device": after["device"], **machine.machine()}
    return {key: (then.get(key), now[key]) for key in now if then.get(key) != now[key]}
