"""Progress bars and tables of the profile commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from profiles.progress import Progress

out = Console(highlight=False, soft_wrap=True)


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[str], Progress | None]]:
    """Draw progress bars with time left, on stderr; nothing when ``quiet`` or where it is no terminal.

    Yields ``begin(title)``, which returns ``progress(done, total)`` or None; a bar appears when its
    loop first tells something, and stays.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda title: None
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
    with RichProgress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as shown:

        def begin(title: str) -> Progress:
            # Made at the first call: a loop that never runs has no bar.
            tasks: list[Any] = []

            def progress(done: int, total: int) -> None:
                if not tasks:
                    tasks.append(shown.add_task(title, total=total))
                shown.update(tasks[0], completed=done, total=total)

            return progress

        yield begin


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


def read_only(store: object) -> None:
    """Say that a command only looked things up."""
    out.print(f"read {store}; no output file")
