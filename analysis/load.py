"""From ``experiment.json`` and its run directories to aligned ranks.

Nothing is averaged here and nothing is dropped silently: a planned cell is *done*, *missing*,
*failed*, *unreadable* (with the reason) or *excluded* (its split differs from that of the other
runs of its dataset), and every finding stands in `Results.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.panel import Panel
from analysis.ranks_file import RanksFile, build_panel, read_ranks
from recbole_kd.errors import StoreError
from recbole_kd.metrics import standard_name

CELL_KEYS = ("dataset", "backbone", "variant", "seed")


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
        done = self.done
        rows = done[
            (done["dataset"] == dataset) & (done["backbone"] == backbone) & (done["variant"] == variant)
        ].sort_values("seed")
        return {int(seed): cell for seed, cell in zip(rows["seed"], rows["cell"], strict=True)}

    def planned_seeds(self, dataset: str, backbone: str, variant: str) -> list[int]:
        """Seeds that the experiment asks of one method."""
        rows = self.runs[
            (self.runs["dataset"] == dataset)
            & (self.runs["backbone"] == backbone)
            & (self.runs["variant"] == variant)
        ]
        return sorted(int(s) for s in rows["seed"])

    def methods(self) -> list[tuple[str, str, str]]:
        """(dataset, backbone, variant) in plan order, the baseline of each backbone first."""
        seen = self.runs[["dataset", "backbone", "variant"]].drop_duplicates()
        keys = [tuple(row) for row in seen.itertuples(index=False)]
        places: dict[tuple[str, str], int] = {}
        for dataset, backbone, _ in keys:
            places.setdefault((dataset, backbone), len(places))
        datasets = list(dict.fromkeys(k[0] for k in keys))
        keys.sort(key=lambda k: (datasets.index(k[0]), places[k[:2]], k[2] != self.baseline))
        return keys

    def history(self, cell: str) -> pd.DataFrame:
        """Epoch table of a done cell (see docs/architecture.md), empty if it has none."""
        path = Path(self.runs.set_index("cell").loc[cell, "path"]) / "history.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def ranks_frame(self) -> pd.DataFrame:
        """Long frame of every run and target: labels, categorical ``user`` and ``item``, ``rank``."""
        labels = self.runs.set_index("cell")
        parts = []
        for dataset, panel in self.panels.items():
            for row, cell in enumerate(panel.cells):
                part = panel.targets.assign(rank=panel.rank[row])
                part.insert(0, "seed", int(labels.loc[cell, "seed"]))
                for name, value in (
                    ("variant", labels.loc[cell, "variant"]),
                    ("backbone", labels.loc[cell, "backbone"]),
                    ("dataset", dataset),
                ):
                    part.insert(0, name, pd.Categorical([value] * len(part)))
                parts.append(part[part["rank"].notna()])
        if not parts:
            return pd.DataFrame(columns=[*CELL_KEYS, "user", "item", "rank"])
        return pd.concat(parts, ignore_index=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: not found") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _experiment(directory: Path) -> dict[str, Any]:
    path = directory / "experiment.json"
    if not path.exists():
        raise StoreError(f"{path}: not found; give the folder that `run` wrote for the experiment")
    value = _read_json(path)
    if value.get("format") != 1:
        raise StoreError(f"{path}: field 'format' is {value.get('format')!r}, this version reads 1")
    for name, kind in (("experiment", str), ("baseline", str), ("metrics", list), ("cells", list)):
        if not isinstance(value.get(name), kind):
            raise StoreError(f"{path}: field '{name}' is missing or not a {kind.__name__}")
    if not value["metrics"]:
        raise StoreError(f"{path}: field 'metrics' is empty; name at least one, such as NDCG@10")
    for number, cell in enumerate(value["cells"]):
        lacking = [k for k in (*CELL_KEYS, "cell", "run") if not isinstance(cell, dict) or k not in cell]
        if lacking:
            raise StoreError(f"{path}: cells[{number}] lacks {', '.join(lacking)}")
    return value


def _run_path(directory: Path, relative: str) -> Path:
    """Run directory named by ``experiment.json``; must lie inside of the results folder."""
    root = directory.resolve().parent
    for base in (directory.resolve(), root):
        path = (base / relative).resolve()
        if path.is_relative_to(root) and path.exists():
            return path
    return root / "runs" / Path(relative).name


def _failures(value: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    listed = value.get("failures") or []
    return tuple(f if isinstance(f, dict) else {"error": str(f)} for f in listed)


def _failure_reason(failure: Mapping[str, Any]) -> str:
    for key in ("error", "reason", "message", "traceback"):
        if failure.get(key):
            lines = str(failure[key]).strip().splitlines()
            return lines[-1] if lines else "failed"
    return "failed"


def _seconds(manifest: Mapping[str, Any]) -> float | None:
    seconds = manifest.get("seconds")
    if isinstance(seconds, int | float):
        return float(seconds)
    if not isinstance(seconds, dict):
        return None
    numbers = {k: float(v) for k, v in seconds.items() if isinstance(v, int | float)}
    for key in ("train", "fit", "total"):
        if key in numbers:
            return numbers[key]
    return sum(numbers.values()) if numbers else None


def _load_cell(
    cell: Mapping[str, Any], directory: Path, failed: Mapping[str, str], split: str, masked: bool
) -> tuple[dict[str, Any], dict[str, Any] | None, RanksFile | None]:
    """One row of ``runs`` and, when it is done, its manifest and ranks."""
    path = _run_path(directory, str(cell["run"]))
    row = {k: cell[k] for k in (*CELL_KEYS, "cell")} | {"status": "missing", "reason": "", "path": str(path)}
    if not (path / "manifest.json").exists():
        if cell["cell"] in failed:
            row |= {"status": "failed", "reason": failed[cell["cell"]]}
        return row, None, None
    try:
        manifest = _read_json(path / "manifest.json")
        label = manifest.get("label") or {}
        wrong = [k for k in CELL_KEYS if k in label and str(label[k]) != str(cell[k])]
        if wrong:
            raise StoreError(f"{path / 'manifest.json'}: label differs from the plan in {', '.join(wrong)}")
        if manifest.get("status", "done") != "done":
            return row | {"status": "failed", "reason": str(manifest.get("status"))}, None, None
        ranks = read_ranks(path / "ranks.parquet", split=split, masked=masked)
    except StoreError as error:
        return row | {"status": "unreadable", "reason": str(error)}, None, None
    for key in ("best_epoch", "epochs", "peak_memory_mb", "n_parameters", "device", "profile_coverage"):
        row[key] = manifest.get(key)
    row |= {"status": "done", "n_users": ranks.n_users, "train_seconds": _seconds(manifest)}
    return row, manifest, ranks


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
            json.dumps(manifests[c].get("protocol"), sort_keys=True, default=str) for c in rows["cell"]
        }
        if len(protocols) > 1:
            found.append(f"different protocols: the runs on {dataset} name {len(protocols)}")
    for row in runs[runs["status"] == "done"].itertuples():
        for flag in manifests[row.cell].get("flags") or []:
            found.append(f"flag: {row.dataset} {row.backbone} {row.variant} seed {row.seed}: {flag}")
    return tuple(found)


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
    plan = _experiment(directory)
    failures = _failures(plan)
    failed = {str(f["cell"]): _failure_reason(f) for f in failures if "cell" in f}
    rows: list[dict[str, Any]] = []
    manifests: dict[str, dict[str, Any]] = {}
    ranks: dict[str, RanksFile] = {}
    shared: dict[Any, Any] = {}
    for cell in plan["cells"]:
        row, manifest, file = _load_cell(cell, directory, failed, split, masked)
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
