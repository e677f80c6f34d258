"""The main table: methods x datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import wording
from analysis.comparison import DEFAULT_TEST, Comparison, compare
from analysis.load import Results, collapse_of
from analysis.summary import Method, Summary, summarise
from analysis.table import Cell, Column, Table
from recbole_kd.errors import SpecError
from recbole_kd.metrics import standard_name

if TYPE_CHECKING:
    import rich.table

# Stands behind the name of a variant; spelled out in a note.
COLLAPSED = "\u00a7"


def _ranked(
    results: Results, summaries: dict[tuple[Method, str], Summary], dataset: str, metric: str
) -> list[Method]:
    """Best and second method of a dataset, among those that have every seed and evaluated every user."""
    own = [
        s
        for (m, k), s in summaries.items()
        if m[0] == dataset and k == metric and results.whole(*m) and not s.partial
    ]
    values = sorted({s.mean for s in own}, reverse=True)
    if len(own) < 2:
        return []
    return [next(s.method for s in own if s.mean == v) for v in values[:2]]


def _state(results: Results, method: Method) -> str:
    dataset, backbone, variant = method
    runs = results.runs
    rows = runs[(runs["dataset"] == dataset) & (runs["backbone"] == backbone) & (runs["variant"] == variant)]
    states = [s for s in dict.fromkeys(rows["status"]) if s != "done"]
    return "/".join(states) or "missing"


def _variant_cell(results: Results, method: Method) -> Cell:
    """Name of a variant, marked where the distillation of one of its runs collapsed."""
    cells = results.cells(*method).values()
    collapsed = any(collapse_of(results.manifests[cell]) for cell in cells)
    return Cell(f"{method[2]} {COLLAPSED}" if collapsed else method[2])


def _summary_cell(summary: Summary, digits: int, best: Sequence[Method], state: str) -> Cell:
    if not summary.means:
        return Cell(state)
    text = wording.number(summary.mean, digits)
    if len(summary.means) > 1:
        text += f" \u00b1 {wording.number(summary.sd, digits)}"
    if summary.partial:
        text += " *"
    return Cell(
        text,
        bold=bool(best) and summary.method == best[0],
        underline=len(best) > 1 and summary.method == best[1],
        sort=summary.mean,
    )


def _comparison_cells(comparison: Comparison | None, is_baseline: bool, digits: int) -> list[Cell]:
    if comparison is None or comparison.result is None:
        return [Cell("baseline" if is_baseline else "\u2013"), Cell(""), Cell(""), Cell("")]
    r = comparison.result
    interval = f"[{wording.signed(r.low, digits)}, {wording.signed(r.high, digits)}]"
    mark = wording.dagger(r.p_corrected)
    return [
        Cell(f"{wording.signed(r.estimate, digits)} {interval}", sort=r.estimate),
        Cell(
            f"{wording.percent(comparison.gain, mark)} {wording.arrow(comparison.gain)}".strip(),
            sort=comparison.gain,
        ),
        Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
        Cell(wording.signed(comparison.d_z, 3), sort=comparison.d_z),
    ]


def _frame_row(
    method: Method, summaries: Sequence[Summary], comparison: Comparison | None, planned: int, state: str
) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("dataset", "backbone", "variant"), method, strict=True))
    for s in summaries:
        row |= {f"{s.metric}_mean": s.mean, f"{s.metric}_sd": s.sd}
    row |= {"n_users": summaries[0].n_users, "n_seeds": len(summaries[0].means), "planned_seeds": planned}
    row["state"] = "done" if len(summaries[0].means) == planned else state
    r = comparison.result if comparison else None
    nan = float("nan")
    row |= {
        "difference": r.estimate if r else nan,
        "low": r.low if r else nan,
        "high": r.high if r else nan,
        "gain_percent": comparison.gain if comparison and r else nan,
        "gain_low": comparison.gain_low if comparison and r else nan,
        "gain_high": comparison.gain_high if comparison and r else nan,
        "p": r.p if r else nan,
        "p_corrected": r.p_corrected if r else nan,
        "d_z": comparison.d_z if comparison and r else nan,
        "cliffs_d_w": comparison.dominance if comparison and r else nan,
    }
    row["notes"] = "; ".join(comparison.notes) if comparison else ""
    return row


def _notes(results: Results, comparisons: Sequence[Comparison], partial: bool) -> list[str]:
    notes = list(results.problems)
    if partial:
        notes.insert(0, "* mean over the method's own users, fewer than the dataset has; not ranked")
    if any(collapse_of(manifest) for manifest in results.manifests.values()):
        notes.insert(0, f"{COLLAPSED} the distillation of a run collapsed: its profiles taught nothing")
    if begins := sorted({int(m.get("patience_from") or 0) for m in results.manifests.values()} - {0}):
        epochs = wording.listing([str(n) for n in begins])
        notes.append(
            f"patience of distilled runs counts from the end of distillation (epoch {epochs}), that of the "
            "others from the first epoch"
        )
    said: dict[str, list[str]] = {}
    for c in comparisons:
        if c.result is None:
            continue
        few = c.result.notes if c.result.n_seeds < 3 else ()
        for note in dict.fromkeys((*c.notes, *few)):
            said.setdefault(note, []).append(f"{c.dataset} {c.label}")
    return [*wording.condensed(notes), *(f"{', '.join(labels)}: {note}" for note, labels in said.items())]


def legends(notes: Sequence[str]) -> tuple[str, ...]:
    """Of the notes of a main table those that spell out a mark; the others are reservations about runs."""
    return tuple(note for note in notes if note.startswith(("* ", f"{COLLAPSED} ")))


def main_table(
    results: Results,
    *,
    comparisons: Sequence[Comparison] | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    test: str = DEFAULT_TEST,
    correction: str = "holm",
    digits: int = 4,
) -> Table:
    """Methods x datasets: mean and sd over seeds, and the tested gain on the primary metric.

    Parameters
    ----------
    results : Results
        Finished or not; what is not there is said.
    comparisons : sequence of Comparison, optional
        Of `compare` on one metric; made here on the first metric otherwise.
    baseline, test, correction
        See `compare`.
    metrics : sequence of str, optional
        Columns; those of the experiment by default. Only the first is tested, which keeps the
        family as small as the claim.
    digits : int
        Decimals of metric values.

    Returns
    -------
    Table
    """
    names = [standard_name(m) for m in (metrics or results.metrics)]
    reference = baseline or results.baseline
    if comparisons is None:
        comparisons = compare(results, baseline=baseline, metrics=names[:1], test=test, correction=correction)
    primary = comparisons[0].metric if comparisons else names[0]
    by_method = {(c.dataset, c.backbone, c.variant): c for c in comparisons}
    summaries = summarise(results, names)
    methods = results.methods()
    several = len({m[0] for m in methods}) > 1
    rows, frame, groups = [], [], []
    for number, method in enumerate(methods):
        if number == 0 or methods[number - 1][:2] != method[:2]:
            groups.append(number)
        mine = [summaries[(method, k)] for k in names]
        state, planned = _state(results, method), len(results.planned_seeds(*method))
        comparison = by_method.get(method)
        row = [Cell(method[0])] if several else []
        row += [Cell(method[1]), _variant_cell(results, method)]
        row += [
            _summary_cell(s, digits, _ranked(results, summaries, method[0], s.metric), state) for s in mine
        ]
        row += _comparison_cells(comparison, method[2] == reference, digits)
        row.append(Cell(f"{len(mine[0].means)}/{planned}", sort=len(mine[0].means)))
        rows.append(tuple(row))
        frame.append(_frame_row(method, mine, comparison, planned, state))
    columns = [Column("Dataset", "l")] if several else []
    columns += [Column("Backbone", "l"), Column("Variant", "l")]
    columns += [Column(f"{k} \u2191") for k in names]
    label = comparisons[0].result.correction if comparisons and comparisons[0].result else ""
    p_name = f"p ({label})" if label and label != "none" else "p"
    columns += [
        Column(f"\u0394 {primary} [95 %]"),
        Column("Gain"),
        Column(p_name),
        Column("d_z"),
        Column("Seeds"),
    ]
    partial = any(s.partial for s in summaries.values())
    caption = (
        f"Mean \u00b1 standard deviation over seeds ({wording.sample(results)}). {wording.protocol(results)} "
        f"{wording.testing(comparisons, reference)} Bold: best, underlined: second of the dataset, "
        "among methods with all seeds and users."
    )
    title = f"{results.experiment}: {wording.listing(dict.fromkeys(m[0] for m in methods))}"
    return Table(
        name="main",
        title=title,
        caption=caption,
        columns=tuple(columns),
        rows=tuple(rows),
        groups=tuple(groups),
        notes=tuple(_notes(results, comparisons, partial)),
        frame=pd.DataFrame(frame),
    )


def ablation_table(
    results: Results, reference: str, *, variants: Sequence[str] | None = None, correction: str = "holm"
) -> Table:
    """What taking a part away costs: every variant against the complete method.

    Parameters
    ----------
    reference : str
        The complete variant; differences are variant minus reference.
    variants : sequence of str, optional
        Rows besides the reference; all by default. They also are the family.

    Raises
    ------
    SpecError
        An unknown variant.
    """
    known = list(dict.fromkeys(v for _, _, v in results.methods()))
    for name in (reference, *(variants or ())):
        if name not in known:
            raise SpecError(f"variant '{name}': this experiment has {', '.join(known)}")
    rows = results.runs
    chosen = rows[rows["variant"].isin([reference, *(variants or known)])].reset_index(drop=True)
    part = replace(results, runs=chosen, baseline=reference)
    table = main_table(part, correction=correction)
    return replace(table, name="ablation", title=f"{results.experiment}: ablation of '{reference}'")


def console_table(results: Results) -> rich.table.Table:
    """The main table for the console, redrawn by the runner as cells finish."""
    return main_table(results).to_rich()
