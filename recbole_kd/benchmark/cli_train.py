"""The verb for people who come from RecBole: train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recbole_kd.benchmark.cli import RESULTS, JsonOpt, QuietOpt, ResultsOpt
from recbole_kd.errors import UserError


def train(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="SASRec, SASRecKD, Caser, ...")],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="A dataset of properties/dataset.")
    ] = "ml-100k",
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
    from recbole_kd.benchmark.train import plan_cell, read_config, sort_keys

    flat = sort_keys(read_config(config_files.split(), context.args), model, dataset)
    cell, metrics = plan_cell(model, dataset, flat)
    if flat.ignored and not quiet:
        typer.echo(f"without effect here: {', '.join(sorted(flat.ignored))}", err=True)
    device = resolve_device("cpu" if flat.use_gpu is False else "auto")[0]
    path = rundir.run_path(results, cell.cell)
    if not path.is_dir():
        files = build(results, [cell])[cell.cell]
        task = CellTask.build(results, cell.cell, cell.label, cell.spec, files, device, metrics)
        outcome = run_cell(task, None if quiet or as_json else _epoch_line)
        if outcome.status == FAILED:
            raise UserError(f"{model} on {dataset}: {outcome.error}")
    manifest = rundir.read_manifest(path)
    found = {
        "best_epoch": manifest["best_epoch"],
        "best_valid_result": _rounded(path, "valid", metrics),
        "test_result": _rounded(path, "test", metrics),
        "run": str(path),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"best valid (epoch {found['best_epoch']}): {_line(found['best_valid_result'])}")
    typer.echo(f"test result: {_line(found['test_result'])}")
    typer.echo(f"run directory: {path}")


def _rounded(path: Path, part: str, metrics: tuple[str, ...]) -> dict[str, float]:
    """Metrics of a part, taken from the ranks, so that an existing run serves any metric."""
    import pyarrow.parquet as pq

    from recbole_kd.metrics import per_user

    table = pq.read_table(path / "ranks.parquet", columns=["split", "rank"]).to_pandas()
    rank = table.loc[table["split"].astype(str) == part, "rank"].to_numpy()
    return {name.lower(): round(float(per_user(rank, name).mean()), 4) for name in metrics}


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
