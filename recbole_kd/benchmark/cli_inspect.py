"""Verbs that look at what is there: list, doctor, status, prune."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from recbole_kd.benchmark.cli_options import RESULTS, JsonOpt, ResultsOpt
from recbole_kd.errors import UserError


class Kind(StrEnum):
    """What ``list`` can list."""

    datasets = "datasets"
    models = "models"
    teachers = "teachers"
    experiments = "experiments"
    objectives = "objectives"
    schedules = "schedules"
    baselines = "baselines"


def list_command(
    kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: JsonOpt = False
) -> None:
    """List what experiments can name: datasets, models, teachers, objectives, baselines, experiments."""
    from recbole_kd.benchmark.catalogue import entries
    from recbole_kd.benchmark.tables import show, simple_table

    found = entries(kind.value)
    if as_json:
        typer.echo(json.dumps([{"name": name, "about": about} for name, about in found]))
        return
    show(simple_table([kind.value, "about"], found))


def doctor(
    as_json: JsonOpt = False,
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load the encoder; takes seconds.")] = True,
) -> None:
    """Check versions, devices, datasets (synthetic ones are made), shims, encoder and LLM endpoint."""
    from recbole_kd.benchmark.doctor import checks
    from recbole_kd.benchmark.tables import show, simple_table

    found = checks(load)
    if as_json:
        typer.echo(json.dumps([c._asdict() for c in found]))
    else:
        show(simple_table(["", "check", "found"], [(c.state, c.name, c.detail) for c in found]))
    if any(c.state == "FAIL" for c in found):
        raise typer.Exit(1)


def status(
    experiment: Annotated[
        str | None, typer.Argument(help="One experiment; default: all that have run.")
    ] = None,
    results: ResultsOpt = RESULTS,
    as_json: JsonOpt = False,
) -> None:
    """Print how far the experiments in a results folder are, and what failed."""
    from recbole_kd.benchmark.status import overview
    from recbole_kd.benchmark.tables import show, simple_table

    found = overview(results, experiment)
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows = [
        (str(e["experiment"]), f"{e['done']}/{e['runs']}", str(len(e["failures"])), str(e["corrupt"]))
        for e in found
    ]
    show(simple_table(["experiment", "runs done", "failed", "corrupt"], rows))
    for entry in found:
        for failure in entry["failures"]:
            label = " ".join(str(failure.get(k)) for k in ("dataset", "backbone", "variant", "seed"))
            typer.echo(f"{entry['experiment']}: {label}: {failure.get('error')}", err=True)


def prune(
    results: ResultsOpt = RESULTS,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only say what would go.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also what is made again when asked for: splits, vectors, lists.")
    ] = False,
    trials: Annotated[bool, typer.Option("--trials", help="Also the runs of tuning trials.")] = False,
) -> None:
    """Delete runs that no experiment names, corrupt ones that were set aside, and leftovers."""
    from recbole_kd.benchmark.status import prunable, remove

    if not results.is_dir():
        raise UserError(f"{results}: no such results folder")
    found = prunable(results, cache, trials)
    for path, why in found:
        typer.echo(f"{'deleting' if yes else 'would delete'} {path} ({why})")
    if not found:
        typer.echo("nothing to prune")
    elif yes:
        for path in remove(results, [path for path, _ in found]):
            typer.echo(f"{path} is in use and stays")
    else:
        typer.echo("nothing was deleted; add --yes")


def diagnose(
    experiment: Annotated[
        str, typer.Argument(help="results/quickstart, or just its name; or the YAML of what has run.")
    ],
    results: ResultsOpt = RESULTS,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Variant whose profiles are looked for.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Print what every finished student, plain and placebo included, knows of one teacher's profiles."""
    from recbole_kd.benchmark.diagnose import COLUMNS, find
    from recbole_kd.benchmark.diagnose import diagnose as measure_all
    from recbole_kd.benchmark.tables import show, simple_table

    rows = measure_all(find(experiment, results), teacher)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    names = [name for name in rows[0] if name not in COLUMNS]
    shown = [
        (*(str(row[c]) for c in COLUMNS), *("-" if row[n] is None else f"{row[n]:.3f}" for n in names))
        for row in rows
    ]
    show(simple_table([*COLUMNS, *names], shown))


def register(app: typer.Typer) -> None:
    """Attach the verbs of this module."""
    app.command("list", epilog="Example: python run_benchmark.py list datasets")(list_command)
    app.command(epilog="Example: python run_benchmark.py doctor")(doctor)
    app.command(epilog="Example: python run_benchmark.py status quickstart")(status)
    app.command(epilog="Example: python run_benchmark.py prune --yes")(prune)
    app.command(epilog="Example: python run_benchmark.py diagnose quickstart --teacher kd-smollm2")(diagnose)
