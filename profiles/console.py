"""Progress bars and tables of the profile commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from profiles.write import Progress

out = Console(highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[Progress | None]:
    """Draw a progress bar with time left, on stderr; yields ``progress(done, total)``."""
    if quiet:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)
    ) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as an aligned table; numbers to the right."""
    if not rows:
        out.print("nothing to show")
        return
    drawn = Table(title=title or None, box=None, header_style="bold", pad_edge=False, title_justify="left")
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        drawn.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(said(value) for value in row.values()))
    out.print(drawn)


def said(value: Any) -> str:
    """A value as text: thousands separated, four digits behind the point at most."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if value != value:
            return "-"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def duration(seconds: float | None) -> str:
    """Seconds as the unit that reads best."""
    if seconds is None:
        return "-"
    for size, unit in ((86400 * 365, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def wrote(path: object) -> None:
    """Say where output went."""
    out.print(f"wrote {path}")
