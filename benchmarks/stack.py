"""Seconds of an epoch of several seeds trained at once, against one seed alone.

    python -m benchmarks.stack --dataset ml-1m --model SASRec --seeds 10 --device cuda

The first epoch (allocation, compilation) is left out. Printed are wall seconds of training, without
validation, the ratio and positions per second. On a CPU the ratio is about the number of seeds: nothing is
won there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch

from benchmarks.common import BACKBONES, load_split
from benchmarks.student_run import student_spec
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.training.fit import fit
from recbole_kd.training.stacked import fit_stacked


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--model", choices=BACKBONES, default="SASRec")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="PART.KEY=VALUE")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first is left out")
    torch.set_num_threads(1)
    split, max_len = load_split(args.dataset)
    limits = [f"train.epochs={args.epochs}", f"train.stopping_step={args.epochs}"]
    spec = student_spec(args.model, [*args.set, *limits])
    options: dict[str, Any] = {"device": args.device, "max_item_list_length": max_len}
    options["execution"] = execution_of(args.device)
    # An epoch's seconds are training and validation; what was validated is known apart.
    one = fit(split, spec, None, seed=1, **options)
    several = fit_stacked(split, [spec] * args.seeds, list(range(1, args.seeds + 1)), **options)
    alone = [row["seconds"] for row in one.history[1:]]
    valid = one.seconds["valid"] / one.epochs
    together = [sum(m.history[k]["seconds"] for m in several) for k in range(1, args.epochs)]
    valid_together = sum(m.seconds["valid"] for m in several) / args.epochs
    first, second = statistics.median(alone) - valid, statistics.median(together) - valid_together
    positions = len(split.train.items) - len(split.train)
    result = {
        "dataset": args.dataset,
        "model": args.model,
        "device": args.device,
        "seeds": args.seeds,
        "one_seconds": first,
        "together_seconds": second,
        "ratio": second / first,
        "positions_per_second": args.seeds * positions / second,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
