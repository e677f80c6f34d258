"""One large training on several processes or GPUs, started by torch's own launcher.

    torchrun --nproc-per-node 4 -m recbole_kd.benchmark.distributed --dataset ml-1m --model SASRec --out DIR

``train_batch_size`` is that of all processes together: rows are dealt out, so the result is that of one
process, up to the order of sums and to dropout, whose masks every process draws for its own rows. Plain
backbones only.
The first process writes ``model.safetensors`` (plain RecBole's keys) and ``summary.json`` to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from safetensors.torch import save_file

from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.benchmark.marked_yaml import merge, parse_marked, plain
from recbole_kd.data.load import load_dataset
from recbole_kd.data.spec import read_dataset_spec
from recbole_kd.data.split import make_split
from recbole_kd.training.distributed import Shards
from recbole_kd.training.fit import FitResult, fit
from recbole_kd.training.spec import StudentSpec


def spec_of(model: str, changes: list[str]) -> StudentSpec:
    """Spec of a plain backbone from ``properties/model``, with ``part.key=value`` changes."""
    data = rooms.model_defaults(model, distilled=False)
    for change in changes:
        path, _, value = change.partition("=")
        part, _, key = path.partition(".")
        text = yaml.safe_dump({part: {key: yaml.safe_load(value)}})
        data = merge(data, parse_marked(text, f"--set {change}"))
    return StudentSpec.model_validate(plain(data))


def train(args: argparse.Namespace, device: str) -> FitResult:
    """This process's part of the training."""
    shards = Shards.of_group()
    dataset = read_dataset_spec(args.dataset)
    split = make_split(load_dataset(dataset), dataset.split)

    def tell(row: dict[str, Any]) -> None:
        if shards.rank == 0:
            line = f"epoch {row['epoch']} loss {row['loss']:.4f} NDCG@10 {row['valid_ndcg@10']:.4f}\n"
            sys.stdout.write(line)
            sys.stdout.flush()

    return fit(
        split,
        spec_of(args.model, args.set),
        None,
        seed=args.seed,
        device=device,
        max_item_list_length=dataset.max_item_list_length,
        on_epoch=tell,
        execution=execution_of(device),
        shards=shards,
    )


def write(result: FitResult, out: Path) -> None:
    """Weights and curve, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {"best_epoch": result.best_epoch, "epochs": result.epochs, "history": result.history}
    for name in ("model.safetensors", "summary.json"):
        beside = out / f".{name}.tmp"
        if name == "summary.json":
            beside.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        else:
            save_file({k: v.cpu().contiguous() for k, v in result.state_dict.items()}, beside)
        os.replace(beside, out / name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a name under properties/dataset, or a YAML file")
    parser.add_argument("--model", required=True, help="SASRec, GRU4Rec or BERT4Rec")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="PART.KEY=VALUE")
    parser.add_argument("--cpu", action="store_true", help="also where there are GPUs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    gpus = not args.cpu and torch.cuda.is_available()
    device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if gpus else "cpu"
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        result = train(args, device)
        if dist.get_rank() == 0:
            write(result, args.out)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
