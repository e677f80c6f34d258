"""Verbs that run single cells: reproduce, rerun."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recbole_kd.benchmark.cli import chosen, reporter, sweep
from recbole_kd.benchmark.cli_options import (
    RESULTS,
    DeviceOpt,
    ExperimentArg,
    JsonOpt,
    OnlyOpt,
    QuietOpt,
    ResultsOpt,
    TunedOpt,
    placed,
)
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.placement import Where


def reproduce(
    run: Annotated[Path, typer.Argument(help="A run directory, such as results/runs/0bc2cb84c22fa96c.")],
    device: DeviceOpt = "auto",
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference of a metric on another device.")
    ] = 0.005,
    as_json: JsonOpt = False,
) -> None:
    """Run one cell again from its run directory and say whether its ranks are the same."""
    from recbole_kd.benchmark.placement import resolve_device
    from recbole_kd.benchmark.reproduce import DIFFERENT
    from recbole_kd.benchmark.reproduce import reproduce as again

    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    verdict = again(run, resolve_device(device)[0], tolerance)
    if as_json:
        typer.echo(json.dumps(asdict(verdict)))
    else:
        typer.echo(f"{verdict.status}: {verdict.moved:.2%} of the ranks differ")
        for name, (then, now) in verdict.metrics.items():
            typer.echo(f"  {name}: {then:.6f} then, {now:.6f} now")
        for name, (then, now) in verdict.changes.items():
            typer.echo(f"  {name}: {then} then, {now} now")
    if verdict.status == DIFFERENT:
        raise typer.Exit(1)


@placed
def rerun(
    experiment: ExperimentArg,
    failed: Annotated[bool, typer.Option("--failed", help="The cells that failed last time.")] = False,
    results: ResultsOpt = RESULTS,
    *,
    where: Where,
    use_tuned: TunedOpt = False,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Run the failed cells of an experiment again, and no others."""
    from recbole_kd.benchmark import record
    from recbole_kd.benchmark.resolve import load_experiment

    if not failed:
        raise UserError("rerun: say what to run again: --failed (missing cells are what 'run' runs)")
    loaded = load_experiment(experiment)
    if use_tuned:
        from recbole_kd.benchmark.tuning import tuned

        # A part may be tuned and run without the rest; what failed was tuned.
        loaded = tuned(loaded, results, wanted=())
    known = (record.read(results, loaded.name) or {}).get("failures", [])
    cells = {str(failure["cell"]) for failure in known}
    again = [cell for cell in loaded.cells if cell.cell in cells]
    if not again:
        typer.echo(f"no cell of {loaded.name} has failed")
        return
    sweep(loaded, again, results, where, reporter(quiet, as_json))


@placed
def tune(
    experiment: ExperimentArg,
    space: Annotated[str, typer.Option("--space", help="A file of properties/tuning.")] = "default",
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials per method; default: as in the space.")
    ] = None,
    only: OnlyOpt = None,
    results: ResultsOpt = RESULTS,
    *,
    where: Where,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Tune every method of an experiment with the same number of trials; then: run EXPERIMENT --tuned."""
    from dataclasses import replace

    from recbole_kd.benchmark.artefacts import build, build_in_child
    from recbole_kd.benchmark.placement import make_engine
    from recbole_kd.benchmark.resolve import load_experiment
    from recbole_kd.benchmark.tuning import tune as search
    from recbole_kd.benchmark.tuning_space import load_tuning

    loaded = load_experiment(experiment)
    cells = chosen(loaded, only)
    loaded = loaded if cells is None else replace(loaded, cells=cells)
    engine, device = make_engine(where)
    path = search(
        loaded,
        load_tuning(space, trials),
        results,
        engine,
        reporter(quiet, as_json),
        device=device,
        build=build if where.workers == 0 else build_in_child,
    )
    place = "" if only is None else f" --only {shlex.quote(only)}"
    place += "" if results == RESULTS else f" --results {results}"
    typer.echo(
        f"tuned; the history is {path}; now: python run_benchmark.py run {experiment} --tuned{place}",
        err=True,
    )


def register(app: typer.Typer) -> None:
    """Attach the verbs of this module."""
    app.command(epilog="Example: python run_benchmark.py reproduce results/runs/0bc2cb84c22fa96c")(reproduce)
    app.command(epilog="Example: python run_benchmark.py rerun quickstart --failed")(rerun)
    app.command(epilog="Example: python run_benchmark.py tune quickstart --trials 20")(tune)
