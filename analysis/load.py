"""From ``experiment.json`` and its run directories to aligned ranks.

Nothing is averaged here and nothing is dropped silently: a planned cell is *done*, *missing*,
*failed*, *unreadable* (with the reason) or *excluded* (its split differs from that of the other
runs of its dataset), and every finding stands in `Results.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.made_alike import making_problems
from analysis.panel import Panel
from analysis.ranks_file import RanksFile, build_panel
from analysis.run_files import (
    CELL_KEYS,
    failure_reason,
    list_failures,
    load_cell,
    read_experiment,
    read_json,
    run_path,
)
from recbole_kd.errors import StoreError
from recbole_kd.metrics import standard_name

DEFAULT_METRICS = ("NDCG@10", "Recall@10", "MRR")


@dataclass(frozen=True)
class Results:
    """An experiment as far as it has been run.

    Attributes
    ----------
    directory : Path
        Where ``experiment.json`` lies and outputs go.
    experiment : str
    baseline : str
        Variant that others of the same backbone are compared with.
    metrics : tuple of str
        The first is the primary metric.
    masked : bool
        Whether ranks leave out the items of the user's own history.
    split : str
        ``test`` or ``valid``.
    runs : DataFrame
        One row per planned cell, in plan order: ``dataset, backbone, variant, seed, cell, status,
        reason, path`` and, of a done cell, ``n_users, best_epoch, epochs, train_seconds,
        peak_memory_mb, n_parameters, device, profile_coverage``.
    panels : dict of str to Panel
        Aligned ranks per dataset.
    manifests : dict of str to dict
        Manifest of every done cell.
    problems : tuple of str
        What a reader of a table must be told.
    """

    directory: Path
    experiment: str
    baseline: str
    metrics: tuple[str, ...]
    masked: bool
    split: str
    runs: pd.DataFrame
    panels: dict[str, Panel]
    manifests: dict[str, dict[str, Any]]
    problems: tuple[str, ...] = ()
    failures: tuple[dict[str, Any], ...] = field(default=())

    @property
    def done(self) -> pd.DataFrame:
        """Rows of ``runs`` that can be analysed."""
        return self.runs[self.runs["status"] == "done"]

    def cells(self, dataset: str, backbone: str, variant: str) -> dict[int, str]:
        """Seed -> cell digest of the done runs of one method, by ascending seed."""
        return dict(self._cells.get((dataset, backbone, variant), {}))

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], dict[int, str]]:
        found: dict[tuple[str, str, str], dict[int, str]] = {}
        for row in self.done.sort_values("seed", kind="stable").itertuples():
            found.setdefault((row.dataset, row.backbone, row.variant), {})[int(row.seed)] = row.cell
        return found

    def planned_seeds(self, dataset: str, backbone: str, variant: str) -> list[int]:
        """Seeds that the experiment asks of one method."""
        return sorted(self._planned[(dataset, backbone, variant)])

    def whole(self, dataset: str, backbone: str, variant: str) -> bool:
        """Whether one method has a done run of every planned seed."""
        return len(self.cells(dataset, backbone, variant)) == len(
            self.planned_seeds(dataset, backbone, variant)
        )

    @cached_property
    def _planned(self) -> dict[tuple[str, str, str], list[int]]:
        found: dict[tuple[str, str, str], list[int]] = {}
        for row in self.runs.itertuples():
            found.setdefault((row.dataset, row.backbone, row.variant), []).append(int(row.seed))
        return found

    def methods(self) -> list[tuple[str, str, str]]:
        """(dataset, backbone, variant) in plan order, the baseline of each backbone first."""
        keys = list(self._planned)
        places: dict[tuple[str, str], int] = {}
        for dataset, backbone, _ in keys:
            places.setdefault((dataset, backbone), len(places))
        datasets = list(dict.fromkeys(k[0] for k in keys))
        keys.sort(key=lambda k: (datasets.index(k[0]), places[k[:2]], k[2] != self.baseline))
        return keys

    def history(self, cell: str) -> pd.DataFrame:
        """Epoch table of a done cell (see docs/architecture.md), empty if it has none."""
        rows = self.runs[self.runs["cell"] == cell]
        path = Path(rows["path"].iloc[0]) / "history.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def ranks_frame(self) -> pd.DataFrame:
        """Long frame of every run and target: labels, categorical ``user`` and ``item``, ``rank``."""
        parts = []
        for run in self.done.itertuples():
            panel = self.panels[run.dataset]
            part = panel.targets.assign(rank=panel.rank[panel.cells.index(run.cell)])
            part.insert(0, "seed", int(run.seed))
            for name in ("variant", "backbone", "dataset"):
                part.insert(0, name, pd.Categorical([getattr(run, name)] * len(part)))
            parts.append(part[part["rank"].notna()])
        if not parts:
            return pd.DataFrame(columns=[*CELL_KEYS, "user", "item", "rank"])
        return pd.concat(parts, ignore_index=True)


def _exclude_other_splits(rows: list[dict[str, Any]], manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Exclude runs whose split is not the one that most runs of their dataset used."""
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "done":
            by_dataset.setdefault(row["dataset"], []).append(row)
    for members in by_dataset.values():
        digests = [str(manifests[m["cell"]].get("split_digest", "")) for m in members]
        usual = max(sorted(set(digests)), key=digests.count)
        for member, digest in zip(members, digests, strict=True):
            if digest != usual:
                member["status"] = "excluded"
                member["reason"] = f"split {digest or 'unknown'} differs from {usual} of the other runs"


def _problems(
    runs: pd.DataFrame, panels: Mapping[str, Panel], manifests: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    found: list[str] = []
    for status in ("missing", "failed", "unreadable", "excluded"):
        rows = runs[runs["status"] == status]
        for key, group in rows.groupby(["dataset", "backbone", "variant", "reason"], sort=False):
            dataset, backbone, variant, reason = (str(k) for k in key)
            seeds = ", ".join(str(s) for s in sorted(group["seed"]))
            found.append(
                f"{status}: {dataset} {backbone} {variant} seed {seeds}" + (f": {reason}" if reason else "")
            )
    for dataset, panel in panels.items():
        rows = runs[(runs["dataset"] == dataset) & (runs["status"] == "done")]
        for row in rows[rows["n_users"] != panel.n_users].itertuples():
            found.append(
                f"different users: {dataset} {row.backbone} {row.variant} seed {row.seed} has "
                f"{int(row.n_users)} of {panel.n_users}"
            )
        protocols = {
            json.dumps(shared_protocol(manifests[c]), sort_keys=True, default=str) for c in rows["cell"]
        }
        if len(protocols) > 1:
            found.append(f"different protocols: the runs on {dataset} name {len(protocols)}")
    done = runs[runs["status"] == "done"]
    found += making_problems(zip(done["dataset"], (manifests[c] for c in done["cell"]), strict=True))
    flags: dict[tuple[str, str, str, str], list[int]] = {}
    for row in runs[runs["status"] == "done"].itertuples():
        for flag in _flags(manifests[row.cell]):
            flags.setdefault((row.dataset, row.backbone, row.variant, flag), []).append(int(row.seed))
    for (dataset, backbone, variant, flag), own in flags.items():
        listed = ", ".join(str(s) for s in sorted(own))
        found.append(f"{flag}: {dataset} {backbone} {variant} seed {listed}")
    return tuple(found)


def shared_protocol(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What methods must have in common to be compared.

    What one was pre-trained on and which of its epochs may be kept is its own affair, and the full-catalogue
    ranks of a re-ranker compare with anybody's.
    """
    own = ("pretraining", "kept_epochs", "re-ranked")
    return {k: v for k, v in (manifest.get("protocol") or {}).items() if k not in own}


def _flags(manifest: Mapping[str, Any]) -> list[str]:
    """Reservations that a run states about itself."""
    flags = [str(f) for f in manifest.get("flags") or []]
    if manifest.get("stopped_early") is False:
        flags.append("epoch limit reached before early stopping")
    if manifest.get("profile_verified") is False:
        flags.append("profiles of unverified provenance")
    if sides := collapse_of(manifest):
        flags.append(f"distillation collapsed ({' and '.join(sides)} alike for all users)")
    return flags


def collapse_of(manifest: Mapping[str, Any]) -> list[str]:
    """Sides that collapsed in the distillation of a run; none where nothing was measured."""
    found = manifest.get("diagnostics") or {}
    return [str(text).split(":")[0] for text in found.get("collapse") or []]


def load_results(experiment_dir: str | Path, *, split: str = "test", masked: bool = False) -> Results:
    """Read an experiment, finished or not.

    Parameters
    ----------
    experiment_dir : path
        Folder with ``experiment.json``.
    split : {"test", "valid"}
    masked : bool
        Rank among the items that the user has not interacted with (``rank_masked``) instead of
        among all items (``rank``, RecBole's protocol for sequential models).

    Returns
    -------
    Results

    Raises
    ------
    StoreError
        ``experiment.json`` is missing or malformed. A broken run directory does not raise; it is
        listed with its reason in ``runs`` and ``problems``.
    """
    directory = Path(experiment_dir)
    plan = read_experiment(directory)
    paths = [run_path(directory, str(cell["run"])) for cell in plan["cells"]]
    return _assemble(directory, plan, paths, split, masked)


def load_runs(
    runs: Sequence[str | Path],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    split: str = "test",
    masked: bool = False,
) -> Results:
    """Read single run directories; the first is the baseline of the others.

    Parameters
    ----------
    runs : sequence of path
        Run directories on the same dataset and split. Their seeds are taken as paired.
    metrics : sequence of str

    Raises
    ------
    StoreError
        A folder is no readable run directory.
    """
    cells: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        manifest = read_json(Path(run) / "manifest.json")
        label = {**(manifest.get("label") or {}), **(manifest.get("written_as") or {})}
        name = f"{chr(ord('a') + number)}: {label.get('backbone', '?')} {label.get('variant', '?')}"
        cells.append(
            {
                "dataset": str(label.get("dataset", "dataset")),
                "backbone": "runs",
                "variant": f"{name} seed {label.get('seed', '?')}",
                "seed": 0,
                "cell": f"{number}-{Path(run).name}",
            }
        )
    plan = {
        "experiment": "runs",
        "baseline": cells[0]["variant"] if cells else "",
        "metrics": list(metrics),
        "cells": cells,
    }
    results = _assemble(Path(), plan, [Path(r) for r in runs], split, masked, check_label=False)
    for problem in results.problems:
        if problem.startswith(("missing", "failed", "unreadable")):
            raise StoreError(problem)
    return results


def _assemble(
    directory: Path,
    plan: Mapping[str, Any],
    paths: Sequence[Path],
    split: str,
    masked: bool,
    check_label: bool = True,
) -> Results:
    failures = list_failures(plan)
    failed = {str(f["cell"]): failure_reason(f) for f in failures if "cell" in f}
    rows: list[dict[str, Any]] = []
    manifests: dict[str, dict[str, Any]] = {}
    ranks: dict[str, RanksFile] = {}
    shared: dict[Any, Any] = {}
    for cell, path in zip(plan["cells"], paths, strict=True):
        row, manifest, file = load_cell(cell, path, failed, split, masked, check_label)
        rows.append(row)
        if manifest is not None and file is not None:
            manifests[row["cell"]] = manifest
            ranks[row["cell"]] = file.share(shared)
    _exclude_other_splits(rows, manifests)
    panels: dict[str, Panel] = {}
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        cells = [r["cell"] for r in rows if r["dataset"] == dataset and r["status"] == "done"]
        if cells:
            panels[dataset] = build_panel(dataset, {c: ranks.pop(c) for c in dict.fromkeys(cells)})
    runs = pd.DataFrame(rows)
    for name in ("n_users", "train_seconds", "n_parameters", "peak_memory_mb", "profile_coverage"):
        if name not in runs:
            runs[name] = float("nan")
    return Results(
        directory=directory,
        experiment=plan["experiment"],
        baseline=plan["baseline"],
        metrics=tuple(standard_name(m) for m in plan["metrics"]),
        masked=masked,
        split=split,
        runs=runs,
        panels=panels,
        manifests=manifests,
        problems=_problems(runs, panels, manifests),
        failures=failures,
    )
