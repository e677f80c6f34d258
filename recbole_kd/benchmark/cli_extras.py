"""The verb ``extras``: what a report shows beyond the ranks, made from models, profiles and dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_K = "1,2,3,5,10"


def _folder(text: str) -> Path:
    named = Path("results") / text
    return named if not Path(text).exists() and named.is_dir() else Path(text)


def extras(
    experiment: Annotated[str, typer.Argument(help="results/quickstart, or just its name.")],
    users: Annotated[
        str | None,
        typer.Option(help="Users to show, with commas; default: largest gains, largest losses, random."),
    ] = None,
    last_k: Annotated[
        str, typer.Option("--last-k", help="Items shown in the simulated cold start, with commas; '' = none.")
    ] = LAST_K,
) -> None:
    """Make the examples, grounding scores, spaces and cold-start ranks that 'report' then shows."""
    from recbole_kd.benchmark.executor import limit_threads
    from recbole_kd.benchmark.extras.last_k import write_last_k

    limit_threads()
    folder = _folder(experiment)
    ks = _numbers(last_k)
    for path in before_report(folder, _names(users)):
        typer.echo(path)
    made = write_last_k(folder, ks, _told) if ks else []
    if made:
        typer.echo(f"{made[0].parent}: {len(made)} runs")


def before_report(folder: Path, users: Sequence[str] = ()) -> list[Path]:
    """Make what is cheap: examples of single users; grounding scores and spaces unless they exist."""
    from recbole_kd.benchmark.extras.examples import write_examples
    from recbole_kd.benchmark.extras.grounding import write_grounding
    from recbole_kd.benchmark.extras.space import write_space

    made = [write_examples(folder, users), write_grounding(folder), write_space(folder)]
    return [path for path in made if path is not None]


def report_with_examples(folder: Path, users: Sequence[str]) -> None:
    """What 'report' calls; a page without examples is better than none, unless they were asked for."""
    from recbole_kd.benchmark.executor import limit_threads

    limit_threads()
    try:
        before_report(folder, users)
    except UserError as error:
        if users:
            raise
        typer.echo(f"no examples of single users: {error}", err=True)


def _told(done: int, total: int) -> None:
    typer.echo(f"cold start: {done} of {total} runs", err=True)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(k < 1 for k in found):
        raise UserError(f"--last-k '{text}': expected numbers of at least 1, such as {LAST_K}")
    return found


def register(app: typer.Typer) -> None:
    """Attach the verb, and let 'report' make the examples before it writes the page."""
    from analysis import cli as analysis_cli

    analysis_cli.BEFORE_REPORT.append(report_with_examples)
    app.command(epilog="Example: python run_benchmark.py extras quickstart --users 42,117")(extras)
