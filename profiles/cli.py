"""Command line of the teacher's side, mounted as ``run_benchmark.py profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Write, keep, price, check and spoil user profiles.",
    rich_markup_mode="markdown",
)

Dataset = Annotated[str, typer.Argument(help="Name in properties/dataset, or a YAML file.")]
Teacher = Annotated[str, typer.Argument(help="Name in properties/profile, or a YAML file.")]
Folder = Annotated[Path, typer.Option("--folder", help="Holds the text store and the embedding files.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the profile, e.g. writer.batch_size=8."),
]
Users = Annotated[int | None, typer.Option("--users", min=1, help="Only the first so many users.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Prices = Annotated[Path | None, typer.Option("--prices", help="Price table in YAML.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write.")]
FOLDER = Path("results/cache/profiles")


@app.command()
def build(
    dataset: Dataset,
    profile: Teacher,
    folder: Folder = FOLDER,
    changes: Changes = None,
    users: Users = None,
    budget: Annotated[
        float | None, typer.Option(help="US dollars; refuses a job that may cost more.")
    ] = None,
    prices: Prices = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Do not use the texts that ship with the code.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write the texts that are missing and encode them; resumes where it was interrupted.

    Example: `python run_benchmark.py profiles build ml-100k smollm2`
    """
    from profiles.commands import build as run

    run(dataset, profile, folder, changes or (), users, budget, prices, anew, quiet)


@app.command()
def encode(
    dataset: Dataset,
    profile: Teacher,
    folder: Folder = FOLDER,
    changes: Changes = None,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Encode texts that are in the store, without asking a model for any.

    Example: `python run_benchmark.py profiles encode ml-100k smollm2 --set reduction.kind=pca
    --set reduction.n_components=64 --out emb.parquet`
    """
    from profiles.commands import encode as run

    run(dataset, profile, folder, changes or (), out, quiet)


@app.command()
def plan(
    dataset: Dataset,
    profile: Teacher,
    folder: Folder = FOLDER,
    changes: Changes = None,
    prices: Prices = None,
    sample: Annotated[int, typer.Option(min=1, help="Users whose prompts are counted.")] = 400,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Count calls and tokens, and say what they cost in money and time, here and at scale.

    Example: `python run_benchmark.py profiles plan ml-100k openai`
    """
    from profiles.commands import plan as run

    run(dataset, profile, folder, changes or (), prices, sample, json_)


@app.command()
def show(
    user: Annotated[str, typer.Argument(help="User token.")],
    folder: Folder = FOLDER,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
) -> None:
    """Print the profiles of one user and where they come from.

    Example: `python run_benchmark.py profiles show 42 --dataset ml-100k`
    """
    from profiles.commands import show as run

    run(user, folder, dataset)


@app.command()
def stats(folder: Folder = FOLDER, json_: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Print how many profiles the store has, by dataset and writer, and what they took.

    Example: `python run_benchmark.py profiles stats`
    """
    from profiles.commands import stats as run

    run(folder, json_)


@app.command()
def verify(dataset: Dataset, folder: Folder = FOLDER, quiet: Quiet = False) -> None:
    """Check the store, and that every profile of a dataset was written from train interactions only.

    Example: `python run_benchmark.py profiles verify ml-100k`
    """
    from profiles.commands import verify as run

    run(dataset, folder, quiet)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="A .parquet file.")],
    folder: Folder = FOLDER,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    model: Annotated[str | None, typer.Option(help="Only by this model.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Only with this prompt version.")] = None,
    quiet: Quiet = False,
) -> None:
    """Copy profile texts with their provenance out of the store.

    Example: `python run_benchmark.py profiles export texts.parquet --dataset ml-100k`
    """
    from profiles.commands import export as run

    run(out, folder, dataset, model, prompt, quiet)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file written by `export`.")],
    folder: Folder = FOLDER,
    quiet: Quiet = False,
) -> None:
    """Copy exported profile texts into the store; what is there already stays.

    Example: `python run_benchmark.py profiles import texts.parquet`
    """
    from profiles.commands import import_ as run

    run(file, folder, quiet)


@app.command("export-batch")
def export_batch(
    dataset: Dataset,
    profile: Teacher,
    out: Annotated[Path, typer.Argument(help="JSONL to upload, or to give to `vllm run-batch`.")],
    folder: Folder = FOLDER,
    changes: Changes = None,
    users: Users = None,
    quiet: Quiet = False,
) -> None:
    """Write the calls that are still to be answered as a batch file.

    Strategies that need several rounds (agg_after, agg_with) take one export and import per round.

    Example: `python run_benchmark.py profiles export-batch ml-100k openai calls.jsonl`
    """
    from profiles.commands import export_batch as run

    run(dataset, profile, out, folder, changes or (), users, quiet)


@app.command("import-batch")
def import_batch(
    dataset: Dataset,
    profile: Teacher,
    file: Annotated[Path, typer.Argument(help="Answers of the batch, JSONL.")],
    folder: Folder = FOLDER,
    changes: Changes = None,
    users: Users = None,
    quiet: Quiet = False,
) -> None:
    """Take the answers of a batch into the store; checks ids and reports what is missing.

    Example: `python run_benchmark.py profiles import-batch ml-100k openai answers.jsonl`
    """
    from profiles.commands import import_batch as run

    run(dataset, profile, file, folder, changes or (), users, quiet)


@app.command()
def corrupt(
    dataset: Dataset,
    profile: Teacher,
    kind: Annotated[str, typer.Option(help="attribute-swap, sentence-swap, invented-claims, ...")],
    rate: Annotated[list[float], typer.Option(help="Dose in [0, 1]; may be given several times.")],
    seed: Annotated[int, typer.Option()] = 0,
    strength: Annotated[float | None, typer.Option(help="noise: signal-to-noise ratio.")] = None,
    folder: Folder = FOLDER,
    changes: Changes = None,
    users: Users = None,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Damage and audit the texts, encode nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Build embedding files of damaged profiles, one per rate, and show what became of one text.

    Example: `python run_benchmark.py profiles corrupt ml-100k smollm2 --kind attribute-swap
    --rate 0.25 --rate 0.5`
    """
    from profiles.commands_study import corrupt as run

    run(dataset, profile, kind, rate, seed, strength, folder, changes or (), users, score_only, quiet)


@app.command()
def audit(
    dataset: Dataset,
    profile: Annotated[list[str], typer.Argument(help="One or more names in properties/profile.")],
    folder: Folder = FOLDER,
    changes: Changes = None,
    users: Users = None,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Score how well histories support what profiles claim; texts that are missing are written first.

    Example: `python run_benchmark.py profiles audit ml-100k template smollm2 --out audit.parquet`
    """
    from profiles.commands_study import audit as run

    run(dataset, profile, folder, changes or (), users, out, quiet)


@app.command()
def refresh(
    dataset: Dataset,
    profile: Teacher,
    policy: Annotated[list[str], typer.Option(help="never, every-n, most-active, drift; may be repeated.")],
    start: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the train history at the start.")
    ] = 0.5,
    n: Annotated[int, typer.Option(min=1, help="every-n: new interactions.")] = 10,
    share: Annotated[float, typer.Option(min=0, max=1, help="most-active: users per checkpoint.")] = 0.1,
    checkpoints: Annotated[int, typer.Option(min=1, help="most-active: parts of the stream.")] = 10,
    threshold: Annotated[float, typer.Option(min=0, help="drift: cosine distance.")] = 0.05,
    folder: Folder = FOLDER,
    changes: Changes = None,
    out: Out = None,
) -> None:
    """Play refresh policies over the train histories: who is re-profiled when, and what it costs.

    Example: `python run_benchmark.py profiles refresh ml-100k smollm2 --policy never --policy every-n --n 20`
    """
    from profiles.commands_study import RefreshOptions
    from profiles.commands_study import refresh as run

    options = RefreshOptions(n=n, share=share, checkpoints=checkpoints, threshold=threshold, start=start)
    run(dataset, profile, policy, options, folder, changes or (), out)
