"""Verbs about deployment: export, serve-latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbole_kd.benchmark.cli_options import RESULTS, JsonOpt, ResultsOpt
from recbole_kd.errors import DataError, UserError

if TYPE_CHECKING:
    from recbole_kd.serving.latency import Latency
    from recbole_kd.serving.student import Trained

# A quiet machine stays far below this.
_BUSY = 4
_FORMATS = "recbole, torchscript, torch-export or onnx"


def export(
    run: Annotated[str, typer.Argument(help="A run directory, or the (beginning of the) digest of one.")],
    to: Annotated[str, typer.Option("--to", help=_FORMATS)],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: RESULTS/exports/DIGEST-FORMAT.")
    ] = None,
    results: ResultsOpt = RESULTS,
    as_json: JsonOpt = False,
) -> None:
    """Write the student of a run without its head, for RecBole, libtorch or onnxruntime."""
    from recbole_kd.benchmark.executor import limit_threads
    from recbole_kd.serving.export import export as write
    from recbole_kd.serving.export import get_target
    from recbole_kd.serving.student import find_run, item_tokens, load_student

    limit_threads()
    get_target(to)
    place = find_run(run, results)
    trained = load_student(place)
    try:
        tokens = item_tokens(trained, _results_of(place, results))
    except DataError as error:
        tokens = None
        typer.echo(f"without items.json, the tokens of the item ids: {error}", err=True)
    folder = out or _results_of(place, results) / "exports" / f"{place.resolve().name}-{to}"
    about = write(trained, to, folder, tokens)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **about}))
        return
    typer.echo(
        f"{folder / about['file']}: {about['model']}, {about['parameters']:,} parameters and "
        f"{about['flops']:,} operations per request, as the plain backbone; scores within "
        f"{about['largest_difference']:.1e} of torch"
    )


def _results_of(run: Path, results: Path) -> Path:
    """Results folder that a run lies in."""
    parent = run.resolve().parent
    return parent.parent if parent.name == "runs" else results


def serve_latency(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT|RUN...",
            help="An experiment's folder or name, or runs of one backbone, the reference first.",
        ),
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Variants of the experiment; default: the first beside the baseline. Repeatable."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Users per call; repeatable. Default: 1 and 256.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Calls per system and batch size.")] = 100,
    forms: Annotated[
        str | None, typer.Option(help=f"Of torch, {_FORMATS}; with commas. Default: all that are installed.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and onnxruntime.")] = 1,
    results: ResultsOpt = RESULTS,
    as_json: JsonOpt = False,
) -> None:
    """Time plain, distilled and exported students side by side: p50, p95, p99 and the ratio to plain."""
    from recbole_kd.serving.latency import FORMS, make_systems, measure

    _use_threads(threads)
    chosen = forms.split(",") if forms else [f for f in FORMS if f != "onnx" or has_onnx()]
    systems = make_systems(students_of(what, variant, results), [f.strip() for f in chosen])
    found = [row for size in batch or (1, 256) for row in measure(systems, size, rounds)]
    if as_json:
        rows = [row.to_dict() for row in found]
        typer.echo(json.dumps({"unit": "ms per call", "device": "cpu", "threads": threads, "rows": rows}))
        return
    from recbole_kd.benchmark.tables import show, simple_table

    heads = ["batch", "form", "student", "p50 ms", "p95 ms", "p99 ms", "ratio", "parameters", "operations"]
    show(simple_table(heads, [_row(row) for row in found]))
    typer.echo(
        f"{rounds} calls each, interleaved in random order; CPU, threads: {threads}. ratio: p50 over that of "
        "the reference in the same form. operations: per request with a full history, matrix products"
    )
    if any(row.p95 > _BUSY * row.p50 for row in found):
        typer.echo(
            f"p95 is over {_BUSY} times p50: other work shares this machine, the ratios tell little",
            err=True,
        )


def _row(row: Latency) -> list[str]:
    times = [f"{value:.3f}" for value in (row.p50, row.p95, row.p99)]
    ratio = "1 (reference)" if row.ratio is None else f"{row.ratio:.3f}"
    return [str(row.batch), row.form, row.name, *times, ratio, f"{row.parameters:,}", f"{row.flops:,}"]


def _use_threads(threads: int) -> None:
    from recbole_kd.benchmark.executor import limit_threads

    limit_threads()
    import torch

    torch.set_num_threads(threads)


def has_onnx() -> bool:
    """Whether the extra ``export`` is installed."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def students_of(
    what: list[str], variants: list[str] | None, results: Path
) -> list[tuple[Trained, str, bool]]:
    """(student, group, whether it is the reference) of an experiment or of single runs."""
    from recbole_kd.serving.student import find_run, load_student

    record = _record(what[0], results) if len(what) == 1 else None
    if record is None:
        students = [load_student(find_run(text, results)) for text in what]
        if len({(s.backbone, s.n_items, s.max_len) for s in students}) > 1:
            raise UserError("serve-latency: the runs differ in backbone or catalogue; nothing to compare")
        return [(student, students[0].label, number == 0) for number, student in enumerate(students)]
    folder, plan = record
    found = []
    home = folder.resolve().parent
    for group, name, cell in _cells(plan, variants, home):
        student = load_student(find_run(cell, home))
        found.append((student, group, name == plan["baseline"]))
    if not found:
        raise UserError(
            f"{folder}: no finished run of '{plan['baseline']}' and of another variant to compare"
        )
    return found


def _record(text: str, results: Path) -> tuple[Path, dict[str, Any]] | None:
    for folder in (Path(text), results / text):
        if (folder / "experiment.json").is_file():
            return folder, json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    return None


def _cells(plan: dict[str, Any], variants: list[str] | None, results: Path) -> list[tuple[str, str, str]]:
    """(group, variant, cell): per dataset and backbone the baseline and the variants, at the first seed.

    Only runs that exist count; a backbone without a run of the baseline is left out.
    """
    from recbole_kd.benchmark import rundir

    known = list(dict.fromkeys(cell["variant"] for cell in plan["cells"]))
    for name in variants or ():
        if name not in known:
            raise UserError(f"--variant {name}: this experiment has {', '.join(known)}")
    others = [name for name in known if name != plan["baseline"]]
    wanted = [plan["baseline"], *(variants or others[:1])]
    first: dict[tuple[str, str], str] = {}
    for cell in sorted(plan["cells"], key=lambda c: c["seed"]):
        if cell["variant"] in wanted and rundir.run_path(results, cell["cell"]).is_dir():
            first.setdefault((f"{cell['dataset']} {cell['backbone']}", cell["variant"]), cell["cell"])
    groups = dict.fromkeys(group for group, _ in first)
    whole = [g for g in groups if (g, plan["baseline"]) in first]
    return [(g, v, first[g, v]) for g in whole for v in dict.fromkeys(wanted) if (g, v) in first]


def register(app: typer.Typer) -> None:
    """Attach the verbs of this module."""
    app.command(epilog="Example: python run_benchmark.py export 0bc2cb84c22fa96c --to onnx")(export)
    app.command(name="serve-latency", epilog="Example: python run_benchmark.py serve-latency quickstart")(
        serve_latency
    )
