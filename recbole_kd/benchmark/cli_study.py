"""The verb ``study``: run an open question and write its page (docs/studies.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recbole_kd.benchmark.cli import reporter
from recbole_kd.benchmark.cli_options import RESULTS, JsonOpt, OnlyOpt, QuietOpt, ResultsOpt, placed
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.placement import Where
    from recbole_kd.benchmark.study.load import Part, Study


@placed
def study(
    name: Annotated[str, typer.Argument(help="A study (properties/experiment/study_NAME.yaml), or all.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="The small cut that the YAML names.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the cells, which exist and the time; changes nothing.")
    ] = False,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Train nothing; write the page from what exists.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Where the page goes. Default: docs/results/NAME.md once every run exists; a smoke "
            "or unfinished page goes to the folder of the study below the results."
        ),
    ] = None,
    results: ResultsOpt = RESULTS,
    only: OnlyOpt = None,
    *,
    where: Where,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Run the missing cells of a study, then write its page; the same command resumes."""
    from recbole_kd.benchmark.plan_page import print_plan
    from recbole_kd.benchmark.study import run
    from recbole_kd.benchmark.study.load import load_study, names

    if name == "all" and page is not None:
        raise UserError("study all: --page names one page; leave it out, or name one study")
    failed = 0
    asked = names() if name == "all" else [name]
    weigh = not (page_only or plan)
    studies = [load_study(each, smoke=smoke, results=results, only=only, weigh=weigh) for each in asked]
    if plan:
        parts = [(_title(loaded, part), part.experiment.cells) for loaded in studies for part in loaded.parts]
        print_plan(parts, results, where.workers, as_json)
        return
    for loaded in studies:
        if not page_only:
            try:
                failed += run.run_parts(loaded, results, where, reporter(quiet, as_json))
            except KeyboardInterrupt:
                typer.echo("interrupted; finished cells are kept, the same command runs the rest", err=True)
                raise typer.Exit(130) from None
        for path in run.write_page(loaded, results, run.page_path(loaded, results, page)):
            typer.echo(path, err=as_json)
    if failed:
        typer.echo(f"{failed} cells failed; see experiment.json of the parts in {results}", err=True)
        raise typer.Exit(1)


def _title(loaded: Study, part: Part) -> str:
    """Name of a study's part, with its place on the axis."""
    from recbole_kd.benchmark.study.load import show_place

    if part.x is None or loaded.spec.x is None:
        return loaded.name
    return f"{loaded.name}, {loaded.spec.x.label}: {show_place(part.x)}"


def register(app: typer.Typer) -> None:
    """Attach the verb."""
    app.command(epilog="Example: python run_benchmark.py study hallucination --smoke")(study)
