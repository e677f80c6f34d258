"""Train one of our students and record the same things as the reference scripts.

    python -m benchmarks.student_run --model SASRec --out DIR

The clock of this script is the harsher one: it runs from before the model is built and includes
every validation pass, whereas RecBole's and RecTools' clocks hold during validation.

Killed and started again it goes on from ``DIR/checkpoint.pt``; curve and seconds are those of both parts.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import yaml

from benchmarks.common import (
    Clock,
    Curve,
    Enough,
    enough,
    load_split,
    one_thread,
    quality,
    run_arguments,
    write_ranks,
    write_summary,
)
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.benchmark.marked_yaml import merge, parse_marked, plain
from recbole_kd.benchmark.rooms import model_defaults
from recbole_kd.data.types import Split
from recbole_kd.models.build import build_student
from recbole_kd.models.side import SideInputs
from recbole_kd.ranking import rank_targets
from recbole_kd.training.checkpoint import Checkpoint
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import StudentSpec


def student_spec(model: str, changes: list[str]) -> StudentSpec:
    """Spec of a plain backbone from ``properties/model``, with ``part.key=value`` changes."""
    data = model_defaults(model, distilled=False)
    for change in changes:
        path, _, value = change.partition("=")
        part, _, key = path.partition(".")
        text = yaml.safe_dump({part: {key: yaml.safe_load(value)}})
        data = merge(data, parse_marked(text, f"--set {change}"))
    return StudentSpec.model_validate(plain(data))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, rank, write; return the summary."""
    split, max_len = load_split(args.dataset)
    limit = [] if args.epochs is None else [f"train.epochs={args.epochs}"]
    spec = student_spec(args.model, [*args.set, *limit])
    clock = Clock()
    curve = Curve(args.out, clock)

    def on_epoch(row: dict[str, Any]) -> None:
        clock.stop()
        point = curve.add(
            epoch=row["epoch"],
            step=0,
            ndcg=row["valid_ndcg@10"],
            recall=row["valid_recall@10"],
            epoch_end=True,
        )
        if reason := enough(args, point.ndcg, point.cpu):
            raise Enough(reason)
        clock.start()

    checkpoint = kept(args, curve)
    summary: dict[str, Any] = {
        "system": "recbole_kd",
        "model": args.model,
        "dataset": args.dataset,
        "seed": args.seed,
        "hparams": spec.hparams,
        "batch_size": spec.train.train_batch_size,
    }
    clock.start()
    try:
        result = fit(
            split,
            spec,
            None,
            seed=args.seed,
            device=args.device,
            max_item_list_length=max_len,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
    except Enough as reason:
        summary["ended"] = str(reason)
    else:
        clock.stop()
        summary["ended"] = "early stopping" if result.epochs < spec.train.epochs else "epoch limit"
        summary["best_epoch"] = result.best_epoch
        ranks = {
            part: rank_targets(
                result.model, getattr(split, part), max_len=max_len, batch_size=256, device=args.device
            ).rank
            for part in ("valid", "test")
        }
        write_ranks(args.out / "ranks.parquet", split, ranks)
        summary |= {part: quality(rank) for part, rank in ranks.items()}
    summary |= {
        "epochs": curve.points[-1].epoch,
        "cpu_seconds": clock.cpu,
        "wall_seconds": clock.wall,
        "peak_memory_mb": curve.points[-1].peak_memory_mb,
    }
    summary["eval_seconds"] = evaluation_seconds(spec, split, max_len, args.device)
    write_summary(args.out, summary)
    checkpoint.remove()
    return summary


def kept(args: argparse.Namespace, curve: Curve) -> Checkpoint:
    """What an interrupted run goes on from."""
    seconds = args.checkpoint_seconds
    if seconds is None:
        seconds = execution_of(args.device).checkpoint_seconds
    return Checkpoint(
        args.out / "checkpoint.pt",
        seconds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        on_resume=curve.resume,
    )


def evaluation_seconds(spec: StudentSpec, split: Split, max_len: int, device: str) -> float:
    """CPU-seconds of one validation pass; the weights do not matter, so these are fresh ones."""
    model = build_student(
        spec.model,
        spec.hparams,
        n_items=split.dataset.n_items,
        max_len=max_len,
        seed=0,
        device=device,
        side=SideInputs(split.dataset.n_users),
    )
    begin = time.process_time()
    rank_targets(model, split.valid, max_len=max_len, batch_size=spec.train.eval_batch_size, device=device)
    return time.process_time() - begin


def main() -> None:
    """Command line."""
    parser = run_arguments(__doc__.splitlines()[0] if __doc__ else None)
    # A falling rate falls over the epochs: another number of them is another schedule.
    parser.set_defaults(epochs=None)
    parser.add_argument(
        "--set", action="append", default=[], metavar="PART.KEY=VALUE", help="train.learning_rate=0.002"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        help="between two checkpoints, 0 = none; else as properties/device",
    )
    args = parser.parse_args()
    one_thread()
    summary = run(args)
    print({key: summary.get(key) for key in ("ended", "epochs", "cpu_seconds", "valid", "test")})


if __name__ == "__main__":
    main()
