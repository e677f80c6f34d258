"""Train RePlay's SASRec or BERT4Rec on the split that everybody else gets.

RePlay brings its own dependencies; it shares an environment with RecTools::

    python -m venv .venv-rivals
    .venv-rivals/bin/pip install torch==2.13.0 pyarrow==21.0.0
    .venv-rivals/bin/pip install torch==2.13.0 "rectools[torch]==0.19.0" "replay-rec[torch]==0.22.0"
    .venv-rivals/bin/pip install --no-deps recbole==1.2.1        # for its ml-100k files only
    .venv-rivals/bin/python -m benchmarks.replay_reference --model SASRec --out DIR

RePlay's Lightning modules train, with cross-entropy over all items; a callback measures validation after each
epoch by the rule used for all systems (all items ranked, seen items not removed, average rank for ties). Its
data sets take a user's last ``max-len`` items (+ 1) and, with ``--sliding-window``, windows before them.
RePlay 0.22 has no GRU4Rec.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, Trainer, seed_everything
from numpy.typing import NDArray
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import PandasSequentialDataset, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.optimizer_utils import FatOptimizerFactory
from replay.models.nn.sequential import Bert4Rec, SasRec
from replay.models.nn.sequential.bert4rec import Bert4RecTrainingDataset
from replay.models.nn.sequential.sasrec import SasRecTrainingDataset
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.common import (
    Clock,
    Curve,
    enough,
    load_split,
    one_thread,
    quality,
    run_arguments,
    write_rival,
)
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.ranking import average_tie_rank

MODELS = ("SASRec", "BERT4Rec")
ITEM = "item_id"


def schema(n_items: int, dim: int, *, masked: bool) -> TensorSchema:
    """A sequence of items, from 0; padding follows them, but Bert4Rec masks it and has no row for it."""
    return TensorSchema(
        TensorFeatureInfo(
            name=ITEM,
            is_seq=True,
            cardinality=n_items,
            padding_value=0 if masked else n_items,
            embedding_dim=dim,
            feature_type=FeatureType.CATEGORICAL,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
        )
    )


def sequences(split: Split, features: TensorSchema) -> PandasSequentialDataset:
    """Train histories in RePlay's layout."""
    rows = [split.train.row(r) - 1 for r in range(len(split.train))]
    frame = pd.DataFrame({"user_id": split.train.users, ITEM: rows})
    return PandasSequentialDataset(
        tensor_schema=features, query_id_column="user_id", item_id_column=ITEM, sequences=frame
    )


@torch.no_grad()
def rank_rows(
    module: Any, rows: EvalSet, n_items: int, max_len: int, *, masked: bool, batch_size: int = 256
) -> NDArray[np.float32]:
    """Rank each target of ``rows`` with RePlay's network.

    Parameters
    ----------
    module : RePlay's SasRec or Bert4Rec
    rows : EvalSet
    n_items : int
        Padding (id 0 here) included.
    max_len : int
    masked : bool
        A masked-item model: the last place is the mask.

    Returns
    -------
    float32 [N], average-tie ranks among all items
    """
    was_training = module.training
    module.eval()
    room = max_len - int(masked)
    ranks: list[Tensor] = []
    for begin in range(0, len(rows), batch_size):
        chosen = range(begin, min(begin + batch_size, len(rows)))
        items = np.full((len(chosen), max_len), 0 if masked else n_items - 1, np.int64)
        known = np.zeros((len(chosen), max_len), bool)
        for line, row in enumerate(chosen):
            history = rows.history.row(row)[-room:] - 1
            place = slice(room - len(history), room)
            items[line, place], known[line, place] = history, True
        device = module.device
        inputs, tokens = {ITEM: torch.from_numpy(items).to(device)}, torch.from_numpy(known).to(device)
        if masked:
            padding = tokens.clone()
            padding[:, -1] = True
            found = module.predict({"inputs": inputs, "pad_mask": padding, "token_mask": tokens})
        else:
            found = module.predict({"feature_tensor": inputs, "padding_mask": tokens})
        scores = torch.cat([found.new_full((len(found), 1), -torch.inf), found], 1)
        target = torch.from_numpy(rows.targets[begin : begin + len(chosen)]).to(device)
        ranks.append(average_tie_rank(scores, target).cpu())
    module.train(was_training)
    return torch.cat(ranks).numpy()


class Validation(Callback):
    """Curve, patience and best weights."""

    def __init__(self, args: argparse.Namespace, split: Split) -> None:
        self.args, self.split = args, split
        self.clock = Clock()
        self.curve = Curve(args.out, self.clock)
        self.best, self.best_epoch = -1.0, 0
        self.best_state: dict[str, Tensor] = {}
        self.ended = "epoch limit"
        self.eval_seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self.clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop the clock and measure."""
        self.clock.stop()
        epoch, args = trainer.current_epoch + 1, self.args
        begin = time.process_time()
        rank = rank_rows(
            pl_module,
            self.split.valid,
            self.split.dataset.n_items,
            args.max_len,
            masked=args.model == "BERT4Rec",
        )
        self.eval_seconds = time.process_time() - begin
        found = quality(rank)
        point = self.curve.add(
            epoch=epoch,
            step=trainer.global_step,
            ndcg=found["NDCG@10"],
            recall=found["Recall@10"],
            epoch_end=True,
        )
        if point.ndcg > self.best:
            self.best, self.best_epoch = point.ndcg, epoch
            self.best_state = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
        if epoch - self.best_epoch >= args.patience:
            self.ended = "early stopping"
        else:
            self.ended = enough(args, point.ndcg, point.cpu) or self.ended
        trainer.should_stop = self.ended != "epoch limit"


def build(args: argparse.Namespace, split: Split) -> tuple[Any, Any]:
    """RePlay's module and its training data set."""
    features = schema(split.dataset.n_items - 1, args.hidden_size, masked=args.model == "BERT4Rec")
    common: dict[str, Any] = {
        "block_count": args.n_blocks,
        "head_count": args.n_heads,
        "hidden_size": args.hidden_size,
        "max_seq_len": args.max_len,
        "dropout_rate": args.dropout,
        "loss_type": "CE",
        "optimizer_factory": FatOptimizerFactory(learning_rate=args.lr),
    }
    data = sequences(split, features)
    step = args.sliding_window or None
    if args.model == "SASRec":
        return SasRec(features, **common), SasRecTrainingDataset(data, args.max_len, sliding_window_step=step)
    module = Bert4Rec(features, enable_embedding_tying=True, **common)
    return module, Bert4RecTrainingDataset(
        data, args.max_len, mask_prob=args.mask_prob, sliding_window_step=step
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, rank, write; return the summary."""
    split, args.max_len = load_split(args.dataset)
    seed_everything(args.seed)
    module, data = build(args, split)
    validation = Validation(args, split)
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator=args.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[validation],
    )
    trainer.fit(module, DataLoader(data, batch_size=args.batch_size, shuffle=True))
    module.load_state_dict(validation.best_state)
    options = (split.dataset.n_items, args.max_len)
    masked = args.model == "BERT4Rec"
    ranks = {p: rank_rows(module, getattr(split, p), *options, masked=masked) for p in ("valid", "test")}
    names = ("n_blocks", "n_heads", "hidden_size", "dropout", "lr", "batch_size", "max_len", "mask_prob")
    hparams = {name: getattr(args, name) for name in (*names, "sliding_window")}
    return write_rival("RePlay", args, hparams, validation, split, ranks)


def main() -> None:
    """Command line."""
    parser = run_arguments(__doc__.splitlines()[0] if __doc__ else None, models=MODELS)
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation NDCG@10")
    parser.add_argument("--n-blocks", type=int, default=2)
    parser.add_argument("--n-heads", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.2, help="RePlay's default for SASRec")
    parser.add_argument("--mask-prob", type=float, default=0.2, help="BERT4Rec")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--sliding-window", type=int, default=0, help="step of windows; 0 = only the last")
    parser.add_argument("--device", default="cpu", help="Lightning's accelerator: cpu or gpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    one_thread()
    summary = run(args)
    print({key: summary[key] for key in ("ended", "epochs", "best_epoch", "cpu_seconds", "valid", "test")})


if __name__ == "__main__":
    main()
