"""One style: one column wide, colour-blind safe, embedded fonts, reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.files import write_atomic
from analysis.load import Results
from analysis.stats.result import TestResult

# Inches; the column of the common two-column templates.
COLUMN_WIDTH = 3.35

# Okabe and Ito, Color universal design (2008), without the yellow that is weak on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BASELINE = "#000000"
GREY = "#6b6b6b"
LIGHT = "#d9d9d9"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)))

# A line of a legend, and what the handle of an entry takes of it, in characters.
_LEGEND_CHARACTERS, _LEGEND_HANDLE = 66, 7

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "axes.formatter.useoffset": False,
    "text.usetex": False,
    "text.parse_math": False,
}


def style() -> AbstractContextManager[None]:
    """Context with the suite's settings; untrusted text is never parsed as mathematics."""
    return mpl.rc_context(_RC)


def new_figure(height: float, width: float = COLUMN_WIDTH) -> Figure:
    """Empty figure with constrained layout; call inside of `style`."""
    return Figure(figsize=(width, height), layout="constrained")


def colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of every name, in order; the palette repeats after seven."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def variant_colours(results: Results) -> dict[str, str]:
    """The same colour for a variant in every figure; the baseline is black."""
    others = [v for v in dict.fromkeys(m[2] for m in results.methods()) if v != results.baseline]
    palette = [c for c in COLOURS if c != BASELINE]
    return {results.baseline: BASELINE} | {v: palette[i % len(palette)] for i, v in enumerate(others)}


def side_by_side(x: Sequence[float], number: int, of: int, reach: float | None = None) -> list[float]:
    """Places of line ``number`` of ``of``, moved so that its intervals do not cover the others'.

    Parameters
    ----------
    x : sequence of float
    number, of : int
        From 0.
    reach : float, optional
        Width of a linear axis; left out, the axis is logarithmic.
    """
    offset = number - (of - 1) / 2
    return [place * 1.015**offset if reach is None else place + offset * 0.008 * reach for place in x]


def error_bars(
    axes: Axes, points: Sequence[tuple[float, TestResult]], number: int, colour: str, label: str, **look: Any
) -> None:
    """Draw estimates with their intervals as one line.

    Parameters
    ----------
    points : sequence of (float, TestResult)
        Abscissa and result.
    number : int
        Which line of the panel it is: chooses marker and dashes.
    look
        What differs from the usual look, as matplotlib's ``errorbar`` names it.
    """
    if not points:
        return
    usual: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[number % len(MARKERS)],
        "ls": LINES[number % len(LINES)],
        "lw": 0.9,
        "elinewidth": 0.8,
        "capsize": 1.5,
        "ms": 3.4,
        "label": label,
    }
    x = [place for place, _ in points]
    y, low, high = (np.array([getattr(r, k) for _, r in points]) for k in ("estimate", "low", "high"))
    axes.errorbar(x, y, yerr=np.abs([y - low, high - y]), **(usual | look))


def legend_columns(labels: Sequence[str], most: int, size: float = _RC["legend.fontsize"]) -> int:
    """Columns of a legend below a figure of one column's width that its longest label leaves room for.

    Parameters
    ----------
    labels : sequence of str
    most : int
        Columns that it never exceeds.
    size : float
        Points of its letters.
    """
    longest = max((len(label) for label in labels), default=0)
    room = _LEGEND_CHARACTERS * _RC["legend.fontsize"] / size
    return max(1, min(most, int(room) // (longest + _LEGEND_HANDLE)))


_NAMED_PLACES = 8
"""More of them would run into each other."""


def log_axis(axes: Axes, which: Literal["x", "y"] = "x", places: Collection[float] = ()) -> None:
    """Logarithmic axis with plain numbers; matplotlib's own labels are mathematics, which is not parsed here.

    Call it when everything is drawn: over more than two decades only powers of ten are named; or else a few
    ``places``, at which something was measured.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    subs = (1.0,) if high > 200 * low else (1.0, 2.0, 5.0)
    few = 1 < len(places) <= _NAMED_PLACES
    axis.set_major_locator(FixedLocator(sorted(places)) if few else LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def few_places(values: Collection[float]) -> bool:
    """Whether every place on a linear axis can have a number of its own without touching the next."""
    ordered = sorted(values)
    gaps = [b - a for a, b in pairwise(ordered)]
    return bool(gaps) and len(ordered) <= _NAMED_PLACES and min(gaps) >= 0.05 * (ordered[-1] - ordered[0])


def name_places(axes: Axes, places: Collection[float]) -> None:
    """Number a linear x axis at ``places``, where something was measured, if there is room for them."""
    if few_places(places):
        axes.set_xticks(sorted(places), [f"{x:,.10g}" for x in sorted(places)])


def _plain(value: float) -> str:
    """``0.05``, ``2,000``, ``1e6``."""
    if 1e-3 <= value < 1e6:
        return f"{value:,.10g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def clip_text(text: str, width: int = 28) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "\u2026"


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """File content of a figure as ``png`` or ``pdf``; no dates, so equal figures are equal bytes."""
    metadata = {"pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}}
    out = io.BytesIO()
    with style():
        figure.savefig(out, format=kind, metadata=metadata.get(kind, {"Software": None}))
    return out.getvalue()


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``<stem>.pdf`` and ``<stem>.png``.

    Returns
    -------
    list of Path
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png")]
    for path in paths:
        write_atomic(path, figure_bytes(figure, path.suffix[1:]))
    return paths
