"""Lines: training curves, sensitivity to a parameter, dose and response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import (
    GREY,
    LIGHT,
    LINES,
    MARKERS,
    clip_text,
    colours,
    legend_columns,
    log_axis,
    new_figure,
    style,
    variant_colours,
)
from analysis.load import Results
from analysis.parameters import curve_frame


def _mean_history(frames: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Mean, lowest and highest over seeds per epoch, as long as any seed trained."""
    parts = [f.set_index("epoch")[column] for f in frames if column in f and f[column].notna().any()]
    if not parts:
        return pd.DataFrame(columns=["mean", "low", "high"], dtype=float)
    wide = pd.concat(parts, axis=1)
    return pd.DataFrame({"mean": wide.mean(axis=1), "low": wide.min(axis=1), "high": wide.max(axis=1)})


def _histories(results: Results, dataset: str, backbone: str, variant: str) -> list[pd.DataFrame]:
    """Epoch tables of a variant's runs that have one."""
    frames = [results.history(c) for c in results.cells(dataset, backbone, variant).values()]
    return [f for f in frames if len(f)]


def _last_distil_epoch(frames: Sequence[pd.DataFrame]) -> float | None:
    ends = [f.loc[f["phase"] == "distil", "epoch"].max() for f in frames if "phase" in f]
    known = [float(e) for e in ends if pd.notna(e)]
    return float(np.mean(known)) if known else None


def _axis_name(column: str) -> str:
    """A column of ``history.parquet`` in words."""
    known = {"loss": "loss", "loss_rec": "recommendation loss", "loss_distil": "distillation loss"}
    metric = column.removeprefix("valid_").replace("ndcg", "NDCG").replace("recall", "Recall")
    return known.get(column, f"validation {metric}" if column.startswith("valid_") else column)


def training_curves(
    results: Results,
    dataset: str,
    backbone: str,
    *,
    variants: Sequence[str] | None = None,
    valid: str = "valid_ndcg@10",
    loss: str = "loss_rec",
) -> Figure:
    """Validation metric and loss per epoch; a dotted line ends the distillation phase.

    Parameters
    ----------
    variants : sequence of str, optional
        All with finished runs by default.
    valid, loss : str
        Columns of ``history.parquet``.

    Returns
    -------
    matplotlib Figure
        Lines are means over seeds, bands the range over seeds.
    """
    names = [m[2] for m in results.methods() if m[:2] == (dataset, backbone)]
    histories = {v: _histories(results, dataset, backbone, v) for v in variants or names}
    # What was not trained epoch by epoch, a language model that is asked, has no curve.
    chosen = [
        v for v, frames in histories.items() if any(len(_mean_history(frames, c)) for c in (valid, loss))
    ]
    colour = variant_colours(results)
    with style():
        columns = legend_columns([clip_text(variant) for variant in chosen], 2)
        figure = new_figure(2.75 + 0.12 * max(-(-len(chosen) // columns), 2))
        upper, lower = figure.subplots(2, 1, sharex=True)
        for number, variant in enumerate(chosen):
            frames = histories[variant]
            for axes, column in ((upper, valid), (lower, loss)):
                line = _mean_history(frames, column)
                axes.fill_between(
                    line.index, line["low"], line["high"], color=colour[variant], alpha=0.15, lw=0
                )
                axes.plot(
                    line.index,
                    line["mean"],
                    ls=LINES[number % len(LINES)],
                    color=colour[variant],
                    label=clip_text(variant),
                )
                end = _last_distil_epoch(frames)
                if end is not None:
                    axes.axvline(end + 0.5, color=colour[variant], lw=0.7, ls=":")
        upper.set_ylabel(_axis_name(valid))
        upper.set_title(clip_text(f"{backbone} on {dataset}", 50), loc="left")
        lower.set_ylabel(_axis_name(loss))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_xlabel("epoch (dotted: end of distillation)")
        if chosen:
            figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def _curve(axes: Axes, frame: pd.DataFrame, number: int, colour: str, label: str) -> None:
    axes.errorbar(
        frame["value"],
        frame["mean"],
        yerr=frame["sd"].fillna(0.0),
        color=colour,
        ls=LINES[number % len(LINES)],
        marker=MARKERS[number % len(MARKERS)],
        capsize=2,
        elinewidth=0.8,
        label=label,
    )


def _common(variants: Iterable[str]) -> str:
    """``two-phase@.1 ... two-phase@.8``: the ends of a line, or its only point."""
    names = list(variants)
    return names[0] if len(names) == 1 else f"{names[0]} \u2026 {names[-1]}"


def parameter_curve(
    results: Results, name: str, *, metric: str | None = None, xlabel: str | None = None, log: bool = False
) -> Figure:
    """Metric against a swept parameter: sensitivity to alpha, or dose and response.

    Parameters
    ----------
    name : str
        Parameter in ``spec.yaml``, see `analysis.parameters.parameter`.
    metric : str, optional
    xlabel : str, optional
    log : bool
        Logarithmic abscissa.

    Returns
    -------
    matplotlib Figure
        Mean and sd over seeds; a line joins runs that differ in nothing but the parameter, a point
        stands alone otherwise. The baseline of each backbone and dataset is a horizontal line.
    """
    frame = curve_frame(results, name, metric)
    with style():
        figure = new_figure(2.3)
        axes = figure.add_subplot()
        groups = list(frame.groupby(["dataset", "backbone"], sort=False))
        several = frame["dataset"].nunique() > 1
        colour = colours([f"{d} {b}" for (d, b), _ in groups])
        number = 0
        for (dataset, backbone), part in groups:
            key = f"{dataset} {backbone}"
            place = f"{backbone} on {dataset}" if several else str(backbone)
            swept = [own for _, own in part[part["value"].notna()].groupby("line", sort=False)]
            for own in swept:
                names = "" if len(swept) == 1 else f" {_common(own['variant'])}"
                _curve(axes, own, number, colour[key], clip_text(place + names, 40))
                number += 1
            base = part[part["variant"] == results.baseline]
            if len(base) and base["value"].isna().all():
                axes.axhline(float(base["mean"].iloc[0]), color=colour[key], lw=0.8, ls=(0, (1, 2)))
        if not groups:
            axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", color=GREY)
        if log:
            log_axis(axes)
        axes.grid(axis="y", color=LIGHT, lw=0.4)
        axes.set_xlabel(xlabel or name)
        axes.set_ylabel(metric or results.metrics[0])
        if number:
            axes.legend()
        if groups:
            axes.text(
                1.0,
                1.02,
                f"dotted: '{clip_text(results.baseline)}'",
                transform=axes.transAxes,
                ha="right",
                fontsize=6,
                color=GREY,
            )
    return figure
