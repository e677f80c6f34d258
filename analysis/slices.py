"""Gains per slice of users or targets, and the test that they differ.

A *slicer* turns a panel into an ordered label per target. Slicers of history length follow the
TRAIN history; head and tail follow the target's train interactions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison, planned_pairs
from analysis.load import Results
from analysis.panel import Panel
from analysis.stats.correction import LABELS, correct
from analysis.stats.effects import cohens_dz, dominance, relative_gain
from analysis.stats.interaction import gain_by_slice, gain_contrast, linear_weights
from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_level
from analysis.values import Layout, UserValues, pair_layout
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.metrics import standard_name


@dataclass(frozen=True)
class Slicing:
    """Slice of every target.

    Attributes
    ----------
    name : str
        What is sliced by.
    labels : tuple of str
        Slices in order.
    codes : int [N]
        Slice of every target; -1 is in none.
    """

    name: str
    labels: tuple[str, ...]
    codes: NDArray[np.intp]


GROUNDING = "grounding.parquet"
Slicer = Callable[[Panel], Slicing]


def whole_number_slices(name: str, values: NDArray[Any], edges: Sequence[float], unit: str) -> Slicing:
    """Slices ``<= e0``, ``e0+1 .. e1``, ..., ``> e_last`` of counts."""
    codes = np.searchsorted(np.asarray(edges, dtype=float), values, side="left")
    labels = []
    for i, edge in enumerate([*edges, None]):
        low = edges[i - 1] + 1 if i else None
        if low is None:
            text = f"\u2264 {edge:g}" if edge else "0"
        elif edge is None:
            text = f"> {edges[-1]:g}"
        else:
            text = f"{low:g}\u2013{edge:g}" if low < edge else f"{edge:g}"
        labels.append(f"{text} {unit}")
    return Slicing(name, tuple(labels), codes.astype(np.intp))


def by_history(edges: Sequence[int] | None = None, quantiles: int = 4) -> Slicer:
    """Slice by items of the train history: given edges, or quantiles over users."""

    def slicer(panel: Panel) -> Slicing:
        cuts = edges
        if cuts is None:
            shares = np.arange(1, quantiles) / quantiles
            found = np.quantile(panel.users["train_len"].to_numpy(), shares, method="lower")
            cuts = sorted({int(v) for v in found})
        return whole_number_slices("train history", panel.targets["train_len"].to_numpy(), cuts, "items")

    return slicer


def by_popularity(head_share: float = 0.2) -> Slicer:
    """Head: targets among the ``head_share`` most popular target items; tail: the others; new: 0.

    Items are counted by their train interactions; the border is that of the distinct target items.
    """

    def slicer(panel: Panel) -> Slicing:
        items = panel.targets.drop_duplicates("item")["item_count"].to_numpy()
        border = float(np.quantile(items, 1 - head_share, method="higher")) if len(items) else 0.0
        count = panel.targets["item_count"].to_numpy()
        codes = np.where(count == 0, 0, np.where(count < border, 1, 2))
        labels = ("unseen items", f"tail (< {border:g})", f"head (\u2265 {border:g})")
        return Slicing("target item", labels, codes.astype(np.intp))

    return slicer


def by_new_users(limit: int = 0) -> Slicer:
    """New users, with at most ``limit`` train interactions, against all others."""

    def slicer(panel: Panel) -> Slicing:
        codes = (panel.targets["train_len"].to_numpy() > limit).astype(np.intp)
        return Slicing("user", (f"new (\u2264 {limit} train items)", "known"), codes)

    return slicer


def by_value(name: str, values: Mapping[str, float] | pd.Series, *, quantiles: int = 3) -> Slicer:
    """Slice by a number per user token, such as the grounding score of the profile.

    Users without a value (or with NaN) are in no slice.
    """

    def slicer(panel: Panel) -> Slicing:
        table = values if isinstance(values, pd.Series) else pd.Series(dict(values), dtype=float)
        mine = table.reindex(panel.targets["user"].astype(str)).to_numpy(dtype=float)
        known = mine[~np.isnan(mine)]
        if len(known) == 0:
            return Slicing(name, (), np.full(len(mine), -1, dtype=np.intp))
        cuts = np.unique(np.quantile(known, np.arange(1, quantiles) / quantiles))
        codes = np.where(np.isnan(mine), -1, np.searchsorted(cuts, np.nan_to_num(mine), side="right"))
        marks = [f"{c:.3g}" for c in cuts]
        labels = [f"< {marks[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(marks))]
        return Slicing(name, (*labels, f"\u2265 {marks[-1]}"), codes.astype(np.intp))

    return slicer


def by_grounding(results: Results, *, quantiles: int = 3) -> Slicer:
    """Slice by the grounding score of the user's profile (``grounding.parquet``, made by ``extras``).

    All methods are sliced by the score of one teacher's profiles, which the file names; users without a
    profile are in no slice.

    Raises
    ------
    StoreError
        The file is missing or not readable.
    """
    path = results.directory / GROUNDING
    try:
        frame = pd.read_parquet(path, columns=["dataset", "variant", "user", "grounding"])
    except FileNotFoundError:
        raise StoreError(
            f"{path}: not found; 'run_benchmark.py extras {results.directory}' makes it"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not readable ({str(error).splitlines()[0]}); delete it") from None
    scores = {str(k): part.set_index("user")["grounding"] for k, part in frame.groupby("dataset")}
    variants = frame.groupby("dataset")["variant"].first()

    def slicer(panel: Panel) -> Slicing:
        own = scores.get(panel.dataset, pd.Series(dtype=float))
        name = f"grounding of {variants.get(panel.dataset, 'no')} profiles"
        return by_value(name, own, quantiles=quantiles)(panel)

    return slicer


SLICERS: dict[str, Slicer] = {
    "history": by_history(),
    "popularity": by_popularity(),
    "new-users": by_new_users(),
}


def get_slicer(by: str | Slicer) -> Slicer:
    """Slicer by name, or the slicer itself.

    Raises
    ------
    SpecError
    """
    if not isinstance(by, str):
        return by
    if by not in SLICERS:
        raise SpecError(f"slice '{by}': expected one of {', '.join(SLICERS)}")
    return SLICERS[by]


@dataclass(frozen=True)
class SliceComparison:
    """Gain of one method in every slice and the test of the interaction.

    Attributes
    ----------
    slicing : Slicing
    slices : tuple of Comparison
        One per non-empty slice, in order, corrected within this set; ``variant`` names the
        method, `slice_labels` the slice.
    slice_labels : tuple of str
    omnibus, trend : TestResult or None
        Gain x slice over users; and the linear trend over ordered slices with users and seeds
        random. None if fewer than two slices can be compared.
    notes : tuple of str
        Slices that were left out.
    """

    dataset: str
    backbone: str
    variant: str
    baseline: str
    metric: str
    slicing: Slicing
    slices: tuple[Comparison, ...]
    slice_labels: tuple[str, ...]
    omnibus: TestResult | None
    trend: TestResult | None
    notes: tuple[str, ...] = ()


def slice_result(layout: Layout, base: Comparison, values: UserValues, seed: int) -> Comparison:
    """Gain and two-level result of one slice."""
    m, b = float(layout.method.mean()), float(layout.baseline.mean())
    means = values.means(*layout.cells, layout.columns)
    return replace(
        base,
        n_users=len(layout.users),
        method_mean=m,
        baseline_mean=b,
        gain=relative_gain(m, b),
        d_z=cohens_dz(layout.differences.mean(axis=0)),
        dominance=dominance(layout.differences.mean(axis=0)),
        result=two_level(layout.differences, seed=seed, user_means=means[0] - means[1]),
    )


def _interaction(
    parts: Sequence[tuple[int, Layout]],
) -> tuple[TestResult | None, TestResult | None]:
    """Omnibus and trend over slices with at least two users each."""
    if len(parts) < 2:
        return None, None
    differences = np.concatenate([layout.differences for _, layout in parts], axis=1)
    groups = np.concatenate([np.full(layout.differences.shape[1], code) for code, layout in parts])
    shared = len(np.unique(np.concatenate([p.users for _, p in parts]))) < len(groups)
    omnibus = gain_by_slice(differences.mean(axis=0), groups)
    trend = gain_contrast(differences, groups, linear_weights(groups))
    if shared:
        note = ("some users have targets in several slices, which are not independent",)
        omnibus, trend = (replace(r, notes=(*r.notes, *note)) for r in (omnibus, trend))
    return omnibus, trend


def compare_slices(
    results: Results,
    by: str | Slicer = "history",
    *,
    metric: str | None = None,
    baseline: str | None = None,
    n_resamples: int = 1_000,
    seed: int = 0,
    correction: str = "holm",
) -> list[SliceComparison]:
    """Gain over the baseline per slice, with intervals and the interaction test.

    Parameters
    ----------
    by : {"history", "popularity", "new-users"} or slicer
        See `by_history`, `by_popularity`, `by_new_users`, `by_value`.
    metric, baseline : str, optional
        The primary metric and the experiment's baseline by default.

    Returns
    -------
    list of SliceComparison
        One per planned comparison that has runs. The family of the per-slice p-values is every
        slice of every comparison of this call.
    """
    slicer, name = get_slicer(by), standard_name(metric or results.metrics[0])
    reference = baseline or results.baseline
    found: list[SliceComparison] = []
    slicings = {d: slicer(p) for d, p in results.panels.items()}
    values = {
        (d, code): UserValues(
            results.panels[d], name, keep=s.codes == code, n_resamples=n_resamples, seed=seed
        )
        for d, s in slicings.items()
        for code in range(len(s.labels))
    }
    for dataset, backbone, variant in planned_pairs(results, reference):
        if dataset not in slicings:
            continue
        slicing, parts, cells, gone = slicings[dataset], [], [], []
        for code in range(len(slicing.labels)):
            sides, own_values = ((backbone, variant), (backbone, reference)), values[(dataset, code)]
            layout, seeds = pair_layout(results, dataset, *sides, name, values=own_values)
            if layout is not None:
                planned = tuple(results.planned_seeds(dataset, backbone, variant))
                base = Comparison(dataset, backbone, variant, reference, name, seeds, planned)
                parts.append((code, layout))
                cells.append(slice_result(layout, base, own_values, seed))
            elif seeds and own_values.n_users:
                gone.append(f"slice '{slicing.labels[code]}' left out: fewer than two users")
        if cells:
            omnibus, trend = _interaction(parts)
            labels = tuple(slicing.labels[code] for code, _ in parts)
            own = (dataset, backbone, variant, reference, name)
            found.append(SliceComparison(*own, slicing, tuple(cells), labels, omnibus, trend, tuple(gone)))
    return corrected_slices(found, correction, found[0].slicing.name if found else "")


def corrected_slices(
    found: list[SliceComparison], correction: str, slicer_name: str
) -> list[SliceComparison]:
    """Correct the p-values of all slices as one family and those of the trends as another."""
    every = [c.result for s in found for c in s.slices if c.result]
    adjusted = iter(correct([r.p for r in every], correction))
    trends = iter(correct([s.trend.p if s.trend else np.nan for s in found], correction))
    family = f"{len(every)} slices by {slicer_name}"
    label = LABELS[correction]
    done = []
    for s in found:
        cells = tuple(
            replace(
                c,
                result=replace(c.result, p_corrected=float(next(adjusted)), correction=label, family=family),
            )
            for c in s.slices
            if c.result
        )
        p, trend = float(next(trends)), s.trend
        if trend is not None:
            trend = replace(
                trend, p_corrected=p, correction=label, family=f"{len(found)} trends over {slicer_name}"
            )
        done.append(replace(s, slices=cells, trend=trend))
    return done


def slice_frame(found: Sequence[SliceComparison]) -> pd.DataFrame:
    """One row per method and slice, with the interaction tests repeated on each."""
    rows = []
    for s in found:
        for label, cell in zip(s.slice_labels, s.slices, strict=True):
            row = {"slice_by": s.slicing.name, "slice": label} | cell.to_dict()
            row |= {
                "interaction_p": s.omnibus.p if s.omnibus else float("nan"),
                "trend": s.trend.estimate if s.trend else float("nan"),
                "trend_p": s.trend.p if s.trend else float("nan"),
                "trend_p_corrected": s.trend.p_corrected if s.trend else float("nan"),
            }
            rows.append(row)
    return pd.DataFrame(rows)
