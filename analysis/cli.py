"""Verbs of the command line that read run directories; the main program mounts them.

Nothing but typer is imported before a verb runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from analysis.load import Results
    from analysis.table import Table

SLICES = ("history", "popularity", "new-users", "last-k", "grounding")
TABLES = ("main", "tests", "power", *SLICES, "cost", "candidates", "protocol", "ablation")
# What the main program makes before a report is written (the per-user examples); called with the folder.
BEFORE_REPORT: list[Callable[[Path, Sequence[str]], object]] = []


def _experiment(text: str) -> Path:
    """Take a folder as it is; a bare name means the folder of that name in ``results``."""
    path = Path(text)
    named = Path("results") / path
    return named if not path.exists() and named.is_dir() else path


ExperimentArg = Annotated[
    Path,
    typer.Argument(parser=_experiment, metavar="EXPERIMENT", help="results/quickstart, or just its name"),
]
MaskedOpt = Annotated[bool, typer.Option("--masked", help="rank without the items of the user's own history")]
BaselineOpt = Annotated[str | None, typer.Option(help="variant to compare with [default: the experiment's]")]
TestOpt = Annotated[str, typer.Option(help="two-level, t, wilcoxon, sign-flip or seeds")]
CorrectionOpt = Annotated[str, typer.Option(help="holm, bh, bonferroni or none")]
FormatOpt = Annotated[str, typer.Option("--format", help="console, markdown, csv, latex or html")]


def _render(table: Table, form: str) -> None:
    from analysis.table import Table as AnyTable
    from recbole_kd.errors import SpecError

    renderers = {
        "markdown": AnyTable.to_markdown,
        "csv": AnyTable.to_csv,
        "latex": AnyTable.to_latex,
        "html": AnyTable.to_html,
    }
    if form == "console":
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 180
        console.print(table.to_rich())
    elif form in renderers:
        typer.echo(renderers[form](table), nl=False)
    else:
        raise SpecError(f"--format '{form}': expected console, {', '.join(renderers)}")


def report(
    experiment: ExperimentArg,
    masked: MaskedOpt = False,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="users whose recommendations changed")
    ] = True,
    users: Annotated[
        str | None, typer.Option(help="these users, with commas [default: gains, losses, random]")
    ] = None,
) -> None:
    """Write one self-contained HTML page, the tables and the figures of an experiment."""
    from analysis.report import write_report
    from analysis.write import write_outputs

    for prepare in BEFORE_REPORT if examples else ():
        prepare(experiment, [name.strip() for name in (users or "").split(",") if name.strip()])
    for path in [*write_outputs(experiment, masked=masked), write_report(experiment, masked=masked)]:
        typer.echo(path)


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=_experiment,
            metavar="PATHS...",
            help="one experiment, or run directories (the first is the baseline)",
        ),
    ],
    baseline: BaselineOpt = None,
    metric: Annotated[list[str] | None, typer.Option(help="repeatable [default: the experiment's]")] = None,
    test: TestOpt = "two-level",
    correction: CorrectionOpt = "holm",
    masked: MaskedOpt = False,
    form: FormatOpt = "console",
) -> None:
    """Paired comparison of methods, or of single runs, per user."""
    from analysis.load import DEFAULT_METRICS, load_results, load_runs
    from analysis.tables import main_table

    if len(paths) == 1:
        results = load_results(paths[0], masked=masked)
    else:
        results = load_runs(paths, masked=masked, metrics=metric or DEFAULT_METRICS)
    table = main_table(results, baseline=baseline, metrics=metric, test=test, correction=correction)
    _render(table, form)


def tables(
    experiment: ExperimentArg,
    table: Annotated[str, typer.Option(help=", ".join(TABLES))] = "main",
    reference: Annotated[str | None, typer.Option(help="complete variant of the ablation table")] = None,
    masked: MaskedOpt = False,
    form: FormatOpt = "console",
) -> None:
    """Print one table of an experiment."""
    from analysis import tables as made
    from analysis.load import load_results
    from recbole_kd.errors import SpecError

    results = load_results(experiment, masked=masked)
    if table == "ablation":
        if reference is None:
            raise SpecError("--table ablation: name the complete variant with --reference")
        chosen = made.ablation_table(results, reference)
    elif table in SLICES:
        chosen = made.slice_table(results, table)
    else:
        simple: dict[str, Callable[[Results], Table]] = {
            "main": made.main_table,
            "tests": made.evidence_table,
            "power": made.power_table,
        }
        simple |= {"cost": made.cost_table, "protocol": made.protocol_table}
        simple |= {"candidates": made.candidates_table}
        if table not in simple:
            raise SpecError(f"--table '{table}': expected one of {', '.join(TABLES)}")
        chosen = simple[table](results)
    _render(chosen, form)


def figures(
    experiment: ExperimentArg,
    parameter: Annotated[
        list[str] | None, typer.Option(help="also draw the metric against this swept parameter")
    ] = None,
    masked: MaskedOpt = False,
) -> None:
    """Write every figure that the experiment has data for, as PDF and PNG, into ``figures/``."""
    from analysis.figures.every import write_figures

    for path in write_figures(experiment, parameters=parameter or [], masked=masked):
        typer.echo(path)


def register(app: typer.Typer) -> None:
    """Mount the verbs on a command line."""
    app.command(epilog="Example: python run_benchmark.py report results/quickstart")(report)
    app.command(epilog="Example: python run_benchmark.py compare results/quickstart --test wilcoxon")(compare)
    app.command(
        epilog="Example: python run_benchmark.py tables results/quickstart --table power --format latex"
    )(tables)
    app.command(epilog="Example: python run_benchmark.py figures results/quickstart --parameter alpha")(
        figures
    )
