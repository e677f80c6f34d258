"""Verbs about language models in the loop: loop-latency."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from recbole_kd.benchmark.cli import loaded_experiment
from recbole_kd.benchmark.cli_options import RESULTS, DeviceOpt, ExperimentArg, JsonOpt, ResultsOpt


def loop_latency(
    experiment: ExperimentArg,
    users: Annotated[int, typer.Option(min=1, help="Users served, one at a time, by every method.")] = 10,
    variant: Annotated[
        list[str] | None, typer.Option(help="Only these variants; repeatable. Default: all.")
    ] = None,
    results: ResultsOpt = RESULTS,
    device: DeviceOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """Time students and language models in the loop side by side; the models are asked (and paid) anew."""
    from recbole_kd.benchmark.executor import limit_threads
    from recbole_kd.benchmark.loop_latency import FILE, measure_loop
    from recbole_kd.benchmark.placement import resolve_device

    limit_threads()
    loaded = loaded_experiment(experiment, results, False, keep=False)
    rows = measure_loop(
        loaded,
        results,
        users,
        device=resolve_device(device)[0],
        note=lambda text: typer.echo(text, err=True),
        variants=variant,
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    from recbole_kd.benchmark.tables import show, simple_table

    heads = ["dataset", "backbone", "variant", "users", "p50 ms", "p95 ms", "calls", "tokens", "USD/1,000"]
    shown = [
        [
            *(r.dataset, r.backbone, r.variant, str(r.users), f"{r.p50_ms:.2f}", f"{r.p95_ms:.2f}"),
            f"{r.calls_per_user:.1f}",
            f"{r.prompt_tokens + r.completion_tokens:,.0f}",
            "?" if r.usd_per_1000 is None else f"{r.usd_per_1000:,.4f}",
        ]
        for r in rows
    ]
    show(simple_table(heads, shown))
    typer.echo(f"one user at a time, interleaved in random order; kept in {results / loaded.name / FILE}")


def register(app: typer.Typer) -> None:
    """Attach the verbs of this module."""
    app.command(
        name="loop-latency", epilog="Example: python run_benchmark.py loop-latency llm_in_the_loop --users 10"
    )(loop_latency)
