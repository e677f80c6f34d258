"""The verb for people who come from RecBole: train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbole_kd.benchmark.cli_options import RESULTS, JsonOpt, QuietOpt, ResultsOpt
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.spec import PlannedCell


def train(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="SASRec, SASRecKD, Caser, ... [or in the files]")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Of properties/dataset, or a folder below --data_path."),
    ] = None,
    config_files: Annotated[
        str, typer.Option("--config_files", help="YAML files with RecBole's flat keys, separated by spaces.")
    ] = "",
    results: ResultsOpt = RESULTS,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Train and test one model as RecBole's run_recbole does; further keys as --key=value."""
    from recbole_kd.benchmark import rundir
    from recbole_kd.benchmark.artefacts import build
    from recbole_kd.benchmark.executor import FAILED, CellTask, run_cell
    from recbole_kd.benchmark.placement import resolve_device
    from recbole_kd.benchmark.train import chosen_names, plan_cell, read_config, sort_keys

    config = read_config(config_files.split(), context.args)
    model, dataset = chosen_names(config, model, dataset)
    flat = sort_keys(config, model, dataset)
    cell, experiment = plan_cell(model, dataset, flat)
    metrics = tuple(experiment.metrics)
    if flat.ignored and not quiet:
        typer.echo(f"without effect here: {', '.join(sorted(flat.ignored))}", err=True)
    device = resolve_device("cpu" if flat.use_gpu is False else "auto")[0]
    if device == "cuda" and flat.gpu_id is not None:
        device = resolve_device(f"cuda:{str(flat.gpu_id).split(',')[0].strip()}")[0]
    path = rundir.run_path(results, cell.cell)
    if not rundir.whole(results, cell.cell):
        files = build(results, [cell])[cell.cell]
        if not quiet and not as_json:
            _say_dataset(files.split, cell)
        watched = experiment.diagnostics
        task = CellTask.build(results, cell.cell, cell.label, cell.spec, files, device, metrics, watched)
        outcome = run_cell(task, None if quiet or as_json else _epoch_line)
        if outcome.status == FAILED:
            raise UserError(f"{model} on {dataset}: {outcome.error}")
    manifest = rundir.read_manifest(path)
    valid_metric = cell.spec.student.train.valid_metric
    found = {
        "best_epoch": manifest["best_epoch"],
        "best_valid_score": _rounded(path, "valid", [(valid_metric, valid_metric, 1)])[valid_metric],
        "valid_score_bigger": True,
        "best_valid_result": _rounded(path, "valid", flat.shown()),
        "test_result": _rounded(path, "test", flat.shown()),
        "run": str(path),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{manifest['model']}: {manifest['n_parameters']:,} parameters")
    typer.echo(f"best valid (epoch {found['best_epoch']}): {_line(found['best_valid_result'])}")
    typer.echo(f"test result: {_line(found['test_result'])}")
    typer.echo(f"run directory: {path}")


def _say_dataset(split: Path, cell: PlannedCell) -> None:
    """What RecBole prints of a dataset, and the protocol."""
    from recbole_kd.benchmark.artefacts import read_split
    from recbole_kd.data.report import split_report, split_report_lines

    for line in split_report_lines(split_report(read_split(split), cell.spec.dataset)):
        typer.echo(line)


def _rounded(path: Path, part: str, shown: Sequence[tuple[str, str, int]]) -> dict[str, float]:
    """Metrics of a part, taken from the ranks, so that an existing run serves any metric.

    Parameters
    ----------
    shown : sequence of (name to show, metric, what divides it)
    """
    from recbole_kd.benchmark.run_record import stored_metrics

    stored = stored_metrics(path, part, [metric for _, metric, _ in shown])
    return {name: round(stored[metric] / by, 4) for name, metric, by in shown}


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} : {value}" for name, value in values.items())


def _epoch_line(row: dict[str, Any]) -> None:
    scores = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k.startswith("valid_"))
    took = f"{row['seconds']:.2f} s"
    typer.echo(f"epoch {row['epoch']} {row['phase']} [time: {took}, train loss: {row['loss']:.4f}]  {scores}")


def register(app: typer.Typer) -> None:
    """Attach the verb of this module."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    example = "Example: python run_benchmark.py train -m SASRecKD -d ml-100k --teacher=template --epochs=20"
    app.command(context_settings=settings, epilog=example)(train)
