"""The command line: thin verbs over the rooms; nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from recbole_kd.benchmark.cli_options import (
    RESULTS,
    ExperimentArg,
    JsonOpt,
    OnlyOpt,
    QuietOpt,
    ResultsOpt,
    StackOpt,
    TrackerOpt,
    TunedOpt,
    WorkersOpt,
    placed,
)
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.console import Reporter
    from recbole_kd.benchmark.placement import Where
    from recbole_kd.benchmark.resolve import Experiment
    from recbole_kd.benchmark.spec import PlannedCell

EXAMPLES = """
Examples:

  python run_benchmark.py run quickstart

  python run_benchmark.py plan properties/experiment/quickstart.yaml

  python run_benchmark.py run quickstart --only 'backbone=SASRec & seed=1'

  python run_benchmark.py list datasets
"""

app = typer.Typer(
    help="Does distilling LLM-written user profiles into sequential recommenders help? Sweeps to find out.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# Verbs that this module registers itself.
_OWN_VERBS = 2


@app.command(epilog="Example: python run_benchmark.py run quickstart")
@placed
def run(
    experiment: ExperimentArg,
    results: ResultsOpt = RESULTS,
    only: OnlyOpt = None,
    *,
    where: Where,
    stack_seeds: StackOpt = False,
    use_tuned: TunedOpt = False,
    tracker: TrackerOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Run the missing cells of an experiment and write its tables; the same command resumes."""
    from dataclasses import replace

    loaded = loaded_experiment(experiment, results, use_tuned, only=only)
    where = replace(where, stack=stack_seeds)
    sweep(loaded, chosen(loaded, only), results, where, tracked(reporter(quiet, as_json), tracker, results))


@app.command(epilog="Example: python run_benchmark.py plan quickstart --only 'dataset=ml-100k'")
def plan(
    experiment: ExperimentArg,
    results: ResultsOpt = RESULTS,
    only: OnlyOpt = None,
    workers: WorkersOpt = None,
    use_tuned: TunedOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Print the cells, which exist, the estimated time and the cost of language models; changes nothing."""
    from recbole_kd.benchmark.plan_page import print_plan

    loaded = loaded_experiment(experiment, results, use_tuned, keep=False, only=only)
    cells = chosen(loaded, only)
    print_plan([("", loaded.cells if cells is None else cells)], results, workers, as_json)


def loaded_experiment(
    name: str, results: Path, use_tuned: bool, keep: bool = True, only: str | None = None
) -> Experiment:
    """An experiment, with the best parameters of ``tune`` where asked.

    Parameters
    ----------
    keep : bool
        Copy the tuning history beside the tables of the tuned experiment.
    only : str, optional
        The filter ``--only``: no other method needs to have been tuned.
    """
    from recbole_kd.benchmark.resolve import load_experiment

    loaded = load_experiment(name)
    if not use_tuned:
        return loaded
    from recbole_kd.benchmark.tuning import tuned

    return tuned(loaded, results, keep=keep, wanted=None if only is None else _passing(loaded, only) or None)


def chosen(experiment: Experiment, only: str | None) -> list[PlannedCell] | None:
    """Cells that pass ``--only``; ``None`` without it."""
    if only is None:
        return None
    cells = _passing(experiment, only)
    if not cells:
        raise UserError(f"--only '{only}' leaves no cell of {experiment.name}; see 'run_benchmark.py plan'")
    return cells


def _passing(experiment: Experiment, only: str) -> list[PlannedCell]:
    from recbole_kd.benchmark.filters import parse_filter

    return list(filter(parse_filter(only), experiment.cells))


def sweep(
    experiment: Experiment,
    cells: list[PlannedCell] | None,
    results: Path,
    where: Where,
    said: Reporter,
) -> None:
    """Run cells of an experiment and turn the result into an exit status."""
    from recbole_kd.benchmark.artefacts import builders
    from recbole_kd.benchmark.placement import make_engine
    from recbole_kd.benchmark.sweep import run_sweep

    build, beside = builders(in_process=where.workers == 0)
    engine, device = make_engine(where)
    try:
        done = run_sweep(
            experiment, results, engine, said, device=device, cells=cells, build=build, build_beside=beside
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; finished cells are kept, the same command runs the rest", err=True)
        raise typer.Exit(130) from None
    if done.unwritten is not None:
        raise UserError(done.unwritten)
    if done.failures:
        typer.echo(f"{len(done.failures)} cells failed; see {done.folder / 'experiment.json'}", err=True)
        raise typer.Exit(1)


def reporter(quiet: bool, as_json: bool) -> Reporter:
    """What a command says while it runs."""
    from recbole_kd.benchmark.console import JsonReporter, RichReporter

    return JsonReporter() if as_json else RichReporter(quiet)


def tracked(said: Reporter, names: list[str] | None, results: Path) -> Reporter:
    """Hand every finished run to the trackers of ``--tracker`` too."""
    if not names:
        return said
    from recbole_kd.benchmark.trackers import TrackedReporter, make_trackers

    return TrackedReporter(said, make_trackers(names, results), results)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a :class:`UserError` becomes one line on standard error and exit status 2."""
    _mount()
    try:
        app(args=arguments, standalone_mode=True)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _mount() -> None:
    """Attach the verbs of the other modules and rooms, once."""
    from importlib.util import find_spec

    from analysis import cli as analysis_cli
    from recbole_kd.benchmark import (
        cli_cells,
        cli_extras,
        cli_inspect,
        cli_loop,
        cli_serve,
        cli_study,
        cli_train,
    )

    if len(app.registered_commands) > _OWN_VERBS:
        return
    ours = (cli_train, cli_inspect, cli_cells, cli_study, cli_serve, cli_loop, cli_extras)
    for module in (*ours, analysis_cli):
        module.register(app)
    if find_spec("profiles.cli") is not None:
        from profiles.cli import app as profiles_app

        app.add_typer(profiles_app, name="profiles")
