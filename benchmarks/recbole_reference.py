"""Train RecBole's own model with RecBole's own Trainer on the split that everybody else gets.

    python -m benchmarks.recbole_reference --model SASRec --out DIR

RecBole's ``SequentialDataset`` augments the prefixes, its ``Trainer`` trains to its early stopping
(NDCG@10 on validation). Nothing of RecBole's computation is replaced; a wrapper around the loss stops
the clock every ``--every`` steps and measures validation by the rule used for all systems (all items
ranked, seen items not removed, average rank for ties), so that the curve has points within an epoch:
one of RecBole's epochs takes minutes. Importing RecBole's sequential models switches torch's anomaly
detection on (``sine.py``), and it stays on here, as for every user of RecBole; ``--no-anomaly-detection``
switches it off. Writes ``curve.jsonl``, ``ranks.parquet`` and ``summary.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from recbole.utils import get_model, init_seed
from torch import Tensor

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
from recbole_kd.compat import PrefixTrainer
from recbole_kd.data.recbole_view import USER, PrefixData, recbole_loaders
from recbole_kd.data.types import EvalSet
from recbole_kd.ranking import average_tie_rank


@torch.no_grad()
def loader_ranks(model: Any, loader: Any, rows: EvalSet) -> NDArray[np.float32]:
    """Rank each target of a RecBole full-sort loader, in the row order of ``rows``.

    Returns
    -------
    float32 [N], average-tie ranks among all items
    """
    was_training = model.training
    model.eval()
    row_of = {int(user): row for row, user in enumerate(rows.history.users)}
    rank = np.full(len(rows), np.nan, np.float32)
    for interaction, _, _, positive in loader:
        scores: Tensor = model.full_sort_predict(interaction.to(model.device)).view(len(interaction), -1)
        at = average_tie_rank(scores[:, : model.n_items], positive.to(scores.device)).cpu().numpy()
        rank[[row_of[int(user)] for user in interaction[USER]]] = at
    model.train(was_training)
    if np.isnan(rank).any():
        raise RuntimeError("RecBole's loader left out a target")
    return rank


class ClockedTrainer(PrefixTrainer):
    """RecBole's Trainer that measures validation every so many steps and at the end of each epoch."""

    def __init__(
        self, config: Any, model: Any, args: argparse.Namespace, data: PrefixData, rows: EvalSet
    ) -> None:
        super().__init__(config, model)
        self.args = args
        self.data = data
        self.rows = rows
        self.clock = Clock()
        self.curve = Curve(args.out, self.clock)
        self.steps = 0

    def measure(self, epoch: int, *, epoch_end: bool) -> None:
        """Add a point to the curve; raise `Enough` when the run may end."""
        found = quality(loader_ranks(self.model, self.data.valid, self.rows))
        point = self.curve.add(
            epoch=epoch,
            step=self.steps,
            ndcg=found["NDCG@10"],
            recall=found["Recall@10"],
            epoch_end=epoch_end,
        )
        if reason := enough(self.args, point.ndcg, point.cpu):
            raise Enough(reason)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        def clocked_loss(interaction: Any) -> Tensor:
            if self.steps and self.steps % self.args.every == 0:
                self.clock.stop()
                self.measure(epoch_idx + 1, epoch_end=False)
                self.clock.start()
            self.steps += 1
            loss: Tensor = self.model.calculate_loss(interaction)
            return loss

        self.clock.start()
        try:
            result = super()._train_epoch(train_data, epoch_idx, loss_func=clocked_loss, show_progress=False)
        finally:
            self.clock.stop()
        self.measure(epoch_idx + 1, epoch_end=True)
        return result


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, rank, write; return the summary."""
    split, max_len = load_split(args.dataset)
    settings = {
        "epochs": args.epochs,
        "train_batch_size": args.batch_size,
        "eval_batch_size": 256,
        "seed": args.seed,
        "reproducibility": True,
        **dict(args.hparam),
    }
    with tempfile.TemporaryDirectory(prefix="recbole-reference-") as checkpoints:
        data = recbole_loaders(
            split,
            args.model,
            settings,
            max_item_list_length=max_len,
            checkpoint_dir=Path(checkpoints),
            device=args.device,
        )
        init_seed(args.seed, True)
        get_model(args.model)  # the import that switches anomaly detection on
        torch.autograd.set_detect_anomaly(args.anomaly_detection)
        model = get_model(args.model)(data.config, data.train.dataset).to(data.config["device"])
        trainer = ClockedTrainer(data.config, model, args, data, split.valid)
        ended = "early stopping"
        try:
            trainer.fit(data.train, data.valid, verbose=False)
            trainer.resume_checkpoint(trainer.saved_model_file)
        except Enough as reason:
            ended = str(reason)
    begin = time.process_time()
    ranks = {"valid": loader_ranks(model, data.valid, split.valid)}
    eval_seconds = time.process_time() - begin
    ranks["test"] = loader_ranks(model, data.test, split.test)
    write_ranks(args.out / "ranks.parquet", split, ranks)
    points = trainer.curve.points
    summary = {
        "system": "RecBole",
        "model": args.model,
        "dataset": args.dataset,
        "seed": args.seed,
        "ended": ended,
        "hparams": {key: trainer.config[key] for key in sorted(_hparams(args.model))} | dict(args.hparam),
        "batch_size": args.batch_size,
        "anomaly_detection": args.anomaly_detection,
        "steps_per_epoch": len(data.train),
        "epochs": points[-1].epoch,
        "cpu_seconds": trainer.clock.cpu,
        "wall_seconds": trainer.clock.wall,
        "eval_seconds": eval_seconds,
        "peak_memory_mb": points[-1].peak_memory_mb,
        **{part: quality(rank) for part, rank in ranks.items()},
    }
    write_summary(args.out, summary)
    return summary


def _hparams(model: str) -> set[str]:
    """Names of RecBole's own hyper-parameters of a model (its property file)."""
    import recbole

    path = Path(recbole.__file__).parent / "properties" / "model" / f"{model}.yaml"
    return set(yaml.safe_load(path.read_text(encoding="utf-8")))


def _pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def main() -> None:
    """Command line."""
    parser = run_arguments(__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--batch-size", type=int, default=256, help="2048, RecBole's default, is slower on a CPU"
    )
    parser.add_argument("--every", type=int, default=60, help="steps between two points of the curve")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hparam", type=_pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--anomaly-detection", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    one_thread()
    summary = run(args)
    print({key: summary[key] for key in ("ended", "epochs", "cpu_seconds", "valid", "test")})


if __name__ == "__main__":
    main()
