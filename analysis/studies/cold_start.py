"""Cold start: newcomers who reveal k interactions, users never seen, short histories, rare items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import wording
from analysis.cold_start import compare_last_k
from analysis.figures.style import (
    GREY,
    LIGHT,
    LINES,
    clip_text,
    colours,
    error_bars,
    name_places,
    new_figure,
    style,
)
from analysis.panel import Panel
from analysis.slices import SliceComparison, Slicing, compare_slices, whole_number_slices
from analysis.stats.result import TestResult
from analysis.studies.known import NOT_RUN, Outcome
from analysis.studies.page import StudyPage
from analysis.studies.run import StudyPart, StudyRun
from analysis.studies.sentences import along, certain, could_have_seen, effect, numbers
from analysis.table import Table
from analysis.tables.slices import slice_table

EVERYBODY, NEVER = "everybody", "never seen"
ITEM_EDGES = (0, 5, 20)
"""Train interactions of the target at which slices end."""


def place(run: StudyRun, x: str) -> StudyPart | None:
    """The part at a place of the axis; None where ``--only`` or ``keep`` left it out."""
    return next((part for part in run.parts if part.x == x), None)


def by_item_count(panel: Panel) -> Slicing:
    """Slice by train interactions of the target item."""
    return whole_number_slices(
        "target item", panel.targets["item_count"].to_numpy(), ITEM_EDGES, "train interactions"
    )


def by_items(run: StudyRun) -> list[SliceComparison]:
    """Gains of everybody by train interactions of the target."""
    part = place(run, EVERYBODY)
    return [] if part is None else compare_slices(part.results, by_item_count)


def by_history(run: StudyRun) -> list[SliceComparison]:
    """Gains of everybody by length of the train history."""
    part = place(run, EVERYBODY)
    return [] if part is None else compare_slices(part.results, "history")


def never_seen(run: StudyRun) -> list[SliceComparison]:
    """Gains of users never seen in training after their last k items."""
    part = place(run, NEVER)
    return [] if part is None else compare_last_k(part.results)


def answer(run: StudyRun) -> list[str]:
    """Newcomers; whether gains depend on how much is known; what could have been seen."""
    new = [g for g in run.gains if g.part.x != EVERYBODY]
    first = effect(run, new)
    trends = [
        *(("train history of known users", s) for s in by_history(run)),
        *(("train interactions of the target", s) for s in by_items(run)),
        *((f"items shown of {NEVER} users", s) for s in never_seen(run)),
    ]
    found = [(what, s, s.trend) for what, s in trends if s.trend is not None and s.trend.p == s.trend.p]
    second = f"{along(run)[:-1]}; {_other_trends(run, found)}."
    return [f"Newcomers: {first}", second, could_have_seen(run, new)]


def _other_trends(run: StudyRun, found: Sequence[tuple[str, SliceComparison, TestResult]]) -> str:
    if not found:
        return "other slices have too few users to compare or were not run"
    clear = [f for f in found if certain(f[2])]
    what, s, trend = min(clear or list(found), key=lambda f: f[2].p)
    said = f"{s.backbone} {s.variant} by {what}, first to last slice: {numbers(trend, run.metric)}"
    if not clear:
        return f"no trend along history, popularity or items shown either (clearest: {said})"
    many = f"{len(clear)} of {len(found)} trends differ"
    return f"along history, popularity or items shown {many} (clearest: {said})"


def revealed_figure(run: StudyRun) -> Figure:
    """Gain against the interactions revealed: learned newcomers, users never seen, and everybody (dashed)."""
    shown = {(s.dataset, s.backbone, s.variant): s for s in never_seen(run)}
    groups = list(dict.fromkeys(g.line[:2] for g in run.gains))
    variants = list(dict.fromkeys(g.series for g in run.gains))
    colour = colours(variants)
    with style():
        figure = new_figure(0.3 + 2.5 * max(len(groups), 1))
        panels = figure.subplots(max(len(groups), 1), 1, squeeze=False)[:, 0]
        for axes, (dataset, backbone) in zip(panels, groups, strict=False):
            axes.axhline(0, color=GREY, lw=0.8)
            axes.grid(axis="y", color=LIGHT, lw=0.4)
            measured: set[float] = set()
            for number, variant in enumerate(variants):
                aside = 0.16 * (number - (len(variants) - 1) / 2)
                own = [g for g in run.gains if g.line == (dataset, backbone, variant) and g.result]
                learned = [(float(g.x), g.result) for g in own if isinstance(g.x, int | float) and g.result]
                measured.update(k for k, _ in learned)
                _points(axes, learned, aside, number, colour[variant], "-", f"{variant}, learned")
                levels = shown.get((dataset, backbone, variant))
                if levels is not None:
                    unseen = _by_k(run, levels)
                    measured.update(k for k, _ in unseen)
                    label = f"{variant}, {NEVER}"
                    _points(axes, unseen, aside + 0.08, number, colour[variant], LINES[3], label)
                for g in own:
                    if g.x == EVERYBODY and g.result:
                        axes.axhline(g.result.estimate, color=colour[variant], ls="--", lw=0.8)
            axes.set_title(clip_text(f"{backbone} on {dataset} (dashed: {EVERYBODY})", 50), loc="left")
            axes.set_ylabel(f"\u0394 {run.metric} to '{clip_text(run.baseline, 14)}'")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=5.8, ncols=2)
            axes.set_xlabel("interactions that a newcomer reveals")
            name_places(axes, measured)
    return figure


def _by_k(run: StudyRun, s: SliceComparison) -> list[tuple[float, TestResult]]:
    """(items shown, gain) of users never seen; "all" is what they reveal."""
    part = place(run, NEVER)
    if part is None:
        return []
    whole = float(part.results.panels[s.dataset].targets["history_len"].max())
    pairs = zip(s.slice_labels, s.slices, strict=True)
    found = [(label, c.result) for label, c in pairs if c.result is not None]
    return [(whole if label == "all" else float(label.removeprefix("last ")), r) for label, r in found]


def _points(
    axes: Axes,
    found: Sequence[tuple[float, TestResult]],
    aside: float,
    number: int,
    colour: str,
    line: Any,
    label: str,
) -> None:
    moved = [(k + aside, r) for k, r in found]
    fill = colour if line == "-" else "white"
    error_bars(axes, moved, number, colour, clip_text(label, 30), ls=line, mfc=fill)


def table(run: StudyRun, found: list[SliceComparison], x: str) -> Table:
    """Table of slices of one part; without rows where the part was left out."""
    part = place(run, x) or run.parts[0]
    made = slice_table(part.results, found=found, metric=run.metric)
    # The page lists what is to be told of the runs, once for all its tables.
    return replace(made, notes=tuple(note for note in made.notes if note not in part.results.problems))


def revealed(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Newcomers' train histories have the length that the part says (0: never seen), as do test histories."""
    wrong, checked = [], 0
    for part in run.parts:
        for dataset, panel in part.results.panels.items():
            if part.x == EVERYBODY:
                continue
            checked += 1
            known = 0 if part.x == NEVER else int(part.x or 0)
            lengths = panel.targets["train_len"].to_numpy()
            shown = panel.targets["history_len"].to_numpy()
            if (lengths != known).any() or (part.x != NEVER and (shown != known).any()):
                wrong.append(f"{dataset} at {wording.listing([part.x])}")
    if not checked:
        return NOT_RUN
    return Outcome(not wrong, f"in {checked - len(wrong)} of {checked} parts")


PAGE = StudyPage(
    answer=answer,
    figures={"revealed": revealed_figure},
    tables={
        "never-seen": lambda run: table(run, never_seen(run), NEVER),
        "history": lambda run: table(run, by_history(run), EVERYBODY),
        "items": lambda run: table(run, by_items(run), EVERYBODY),
    },
    known={"revealed": revealed},
)
