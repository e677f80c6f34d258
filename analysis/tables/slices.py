"""Gains per slice with the test of the interaction."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import wording
from analysis.cold_start import NAME as LAST_K
from analysis.cold_start import slices_by
from analysis.load import Results
from analysis.slices import SliceComparison, Slicer, slice_frame
from analysis.table import Cell, Column, Table

_BETWEEN = "Welch's ANOVA over users of the seed-averaged differences"
_WITHIN = "Hotelling's T2 over users of the seed-averaged differences, the same users in every slice"


def _told(comparisons: Sequence[SliceComparison]) -> dict[str, None]:
    """What lacks and what the tests of the interaction say, each once with the methods it is said of."""
    found: dict[str, list[str]] = {}
    for s in comparisons:
        for note in (*s.notes, *(s.omnibus.notes if s.omnibus else ())):
            found.setdefault(note, []).append(f"{s.dataset} {s.backbone} {s.variant}")
    every = len(comparisons)
    return dict.fromkeys(
        note if len(said) == every else f"{note}: {wording.listing(said)}" for note, said in found.items()
    )


def slice_table(
    results: Results,
    by: str | Slicer = "history",
    *,
    found: Sequence[SliceComparison] | None = None,
    metric: str | None = None,
    digits: int = 4,
) -> Table:
    """One row per method and slice; the last columns test whether gains differ between slices.

    Parameters
    ----------
    by, metric
        See `analysis.slices.compare_slices`; also ``last-k`` and ``grounding``.
    found : sequence of SliceComparison, optional
        To render what has been compared already.
    """
    comparisons = list(slices_by(results, by, metric=metric) if found is None else found)
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    for s in comparisons:
        groups.append(len(rows))
        for number, (label, c) in enumerate(zip(s.slice_labels, s.slices, strict=True)):
            r = c.result
            if r is None:
                continue
            first = number == 0
            interval = f"[{wording.signed(r.low, digits)}, {wording.signed(r.high, digits)}]"
            omnibus, trend = s.omnibus, s.trend
            rows.append(
                (
                    Cell(s.dataset),
                    Cell(f"{s.backbone} {s.variant}"),
                    Cell(label, sort=float(number)),
                    Cell(str(c.n_users), sort=float(c.n_users)),
                    Cell(wording.number(c.baseline_mean, digits), sort=c.baseline_mean),
                    Cell(f"{wording.signed(r.estimate, digits)} {interval}", sort=r.estimate),
                    Cell(wording.percent(c.gain, wording.dagger(r.p_corrected)), sort=c.gain),
                    Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
                    Cell(wording.p_value(omnibus.p) if omnibus and first else ""),
                    Cell(wording.p_value(trend.p_corrected) if trend and first else ""),
                )
            )
    name = comparisons[0].slicing.name if comparisons else "slice"
    metric_name = comparisons[0].metric if comparisons else results.metrics[0]
    columns = (
        Column("Dataset", "l"),
        Column("Method", "l"),
        Column(f"By {name}", "l"),
        Column("Users"),
        Column("Baseline"),
        Column(f"\u0394 {metric_name} [95 %]"),
        Column("Gain"),
        Column("p (Holm)"),
        Column("p gain x slice"),
        Column("p trend"),
    )
    caption = (
        f"Gain over '{results.baseline}' per slice. {wording.protocol(results)} Intervals: two-level "
        "bootstrap over seeds and users. p: per slice, Holm-corrected over every slice shown. "
        f"p gain x slice: {_WITHIN if name == LAST_K else _BETWEEN}, uncorrected; "
        "p trend: linear trend over ordered slices, users and seeds random, Holm-corrected over "
        "methods. Only the last two say whether gains differ."
    )
    if name == LAST_K:
        caption += (
            " Simulated cold start: the trained students are shown only the last items of each history; all "
            "slices hold the same users and targets."
        )
    return Table(
        name=f"slices-{name.replace(' ', '-')}",
        title=f"{results.experiment}: gains by {name}",
        caption=caption,
        columns=columns,
        rows=tuple(rows),
        groups=tuple(groups),
        notes=(*results.problems, *_told(comparisons)),
        frame=slice_frame(comparisons),
    )
