"""Simulated cold start: gains when a trained student is shown only the last k items of each history.

Reads ``<results>/cache/last-k/<cell>.parquet`` (docs/architecture.md), made by ``run_benchmark.py extras``.
All k rank the same targets of the same users, so the "slices" are repeated measurements, and the
interaction "gain x k" is tested within users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.comparison import Comparison, planned_pairs
from analysis.load import Results
from analysis.panel import Panel
from analysis.slices import (
    GROUNDING,
    SliceComparison,
    Slicer,
    Slicing,
    by_grounding,
    compare_slices,
    corrected_slices,
    slice_result,
)
from analysis.stats.interaction import gain_within_users
from analysis.values import Layout, UserValues, pair_layout
from recbole_kd.errors import StoreError
from recbole_kd.metrics import standard_name

NAME = "items shown"
_COLUMNS = ("last_k", "user", "item", "rank", "rank_masked")


def _file(results: Results, cell: str) -> Path:
    path = Path(results.runs.loc[results.runs["cell"] == cell, "path"].iloc[0])
    return path.parent.parent / "cache" / "last-k" / f"{path.name}.parquet"


def last_k_panels(results: Results) -> dict[str, dict[int, Panel]]:
    """Panel per dataset and k, of the runs that have a file; ascending k.

    Raises
    ------
    StoreError
        A file is not readable or lacks a column.
    """
    found: dict[str, dict[int, Panel]] = {}
    if results.split != "test":
        return found
    for dataset, panel in results.panels.items():
        index = pd.MultiIndex.from_frame(panel.targets[["user", "item"]].astype(str))
        ranks: dict[int, NDArray[np.float32]] = {}
        for row, cell in enumerate(panel.cells):
            path = _file(results, cell)
            if not path.exists() or _of_a_run_before(path, results.manifests.get(cell, {})):
                continue
            for k, part in _read(path, results.masked).groupby("last_k"):
                whole = ranks.setdefault(int(str(k)), np.full(panel.rank.shape, np.nan, dtype=np.float32))
                places = index.get_indexer(pd.MultiIndex.from_frame(part[["user", "item"]]))
                whole[row, places[places >= 0]] = part["rank"].to_numpy(np.float32)[places >= 0]
        if ranks:
            found[dataset] = {k: replace(panel, rank=ranks[k]) for k in sorted(ranks)}
    return found


def _of_a_run_before(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the file says that it was made from a run that has been replaced since."""
    ranks = (manifest.get("files") or {}).get("ranks.parquet", {})
    try:
        said = (pq.read_schema(path).metadata or {}).get(b"run")
    except (OSError, pa.ArrowException):
        return False
    return said is not None and said != str(ranks.get("sha256")).encode()


def _read(path: Path, masked: bool) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: not readable ({str(error).splitlines()[0]}); delete it") from None
    lacking = [name for name in _COLUMNS if name not in frame]
    if lacking:
        raise StoreError(f"{path}: lacks column {', '.join(lacking)}; delete it and run 'extras' again")
    if masked:
        frame["rank"] = frame["rank_masked"]
    return frame


def compare_last_k(
    results: Results,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    n_resamples: int = 1_000,
    seed: int = 0,
    correction: str = "holm",
) -> list[SliceComparison]:
    """Gain over the baseline after the last k items of every history, and after the whole history.

    Returns
    -------
    list of SliceComparison
        One per planned comparison whose runs all have ranks for every k; empty without any. The family of the
        per-level p-values is every level of every comparison of this call.
    """
    name, reference = standard_name(metric or results.metrics[0]), baseline or results.baseline
    panels = last_k_panels(results)
    levels = {d: [*by_k.values(), results.panels[d]] for d, by_k in panels.items()}
    values = {
        d: [UserValues(p, name, n_resamples=n_resamples, seed=seed) for p in own] for d, own in levels.items()
    }
    found = []
    for dataset, backbone, variant in planned_pairs(results, reference):
        if dataset not in levels:
            continue
        sides = ((backbone, variant), (backbone, reference))
        layouts = [pair_layout(results, dataset, *sides, name, values=v) for v in values[dataset]]
        pairs = [layout for layout, _ in layouts]
        seeds = layouts[-1][1]
        if not _same_users(pairs):
            continue
        whole = tuple(layout for layout in pairs if layout is not None)
        planned = tuple(results.planned_seeds(dataset, backbone, variant))
        base = Comparison(dataset, backbone, variant, reference, name, seeds, planned)
        cells = tuple(
            slice_result(layout, base, v, seed) for layout, v in zip(whole, values[dataset], strict=True)
        )
        labels = tuple([f"last {k}" for k in panels[dataset]] + ["all"])
        slicing = Slicing(NAME, labels, np.zeros(0, dtype=np.intp))
        omnibus, trend = gain_within_users([layout.differences for layout in whole], seed=seed)
        own = (dataset, backbone, variant, reference, name)
        found.append(SliceComparison(*own, slicing, cells, labels, omnibus, trend))
    return corrected_slices(found, correction, NAME)


def slices_by(results: Results, by: str | Slicer, *, metric: str | None = None) -> list[SliceComparison]:
    """Compare by any kind of slice: those of `compare_slices`, ``last-k`` and ``grounding``.

    Raises
    ------
    StoreError
        The ranks or scores that this slice needs have not been made.
    """
    if by == "grounding":
        return compare_slices(results, by_grounding(results), metric=metric)
    if by != "last-k":
        return compare_slices(results, by, metric=metric)
    found = compare_last_k(results, metric=metric)
    if not found:
        raise StoreError(
            f"{results.directory}: has no ranks of the simulated cold start; "
            f"'run_benchmark.py extras {results.directory}' makes them"
        )
    return found


def extra_slices(results: Results) -> Iterator[tuple[str, list[SliceComparison]]]:
    """(kind, comparisons) of ``last-k`` and ``grounding`` as far as there is anything to compare."""
    found = compare_last_k(results)
    if found:
        yield "last-k", found
    if (results.directory / GROUNDING).exists():
        by_score = compare_slices(results, by_grounding(results))
        if any(len(s.slices) > 1 for s in by_score):
            yield "grounding", by_score


def _same_users(layouts: Sequence[Layout | None]) -> bool:
    """Whether every level has the same users (a run without a file has none)."""
    first = layouts[-1]
    return first is not None and all(
        layout is not None and np.array_equal(layout.users, first.users) for layout in layouts
    )
