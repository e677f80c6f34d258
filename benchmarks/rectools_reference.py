"""Train RecTools' SASRec or BERT4Rec on the split that everybody else gets.

RecTools brings its own dependencies, so it gets an environment of its own::

    python -m venv .venv-rectools
    .venv-rectools/bin/pip install torch==2.13.0
    .venv-rectools/bin/pip install "rectools[torch]==0.19.0" pyarrow==20.0.0 torch==2.13.0
    .venv-rectools/bin/pip install --no-deps recbole==1.2.1      # for its ml-100k files only
    .venv-rectools/bin/python -m benchmarks.rectools_reference --out DIR

RecTools trains; a Lightning callback measures validation after each epoch by the rule used for all
systems (all items of the catalogue ranked, seen items not removed, average rank for ties; items that
RecTools has never seen in training share the last places) and stops when NDCG@10 has not risen for
``--patience`` epochs. The best epoch is ranked. RecTools trains on the last ``session-max-len + 1``
items of a user and on nothing before them.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset as RecToolsDataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.constants import MASKING_VALUE
from torch import Tensor

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

MODELS = {"SASRec": SASRecModel, "BERT4Rec": BERT4RecModel}


def interactions(split: Split) -> pd.DataFrame:
    """Train interactions in RecTools' columns; days stand for positions in the user's history."""
    lengths = split.train.lengths
    position = np.arange(len(split.train.items)) - np.repeat(split.train.offsets[:-1], lengths)
    return pd.DataFrame(
        {
            Columns.User: np.repeat(split.train.users, lengths),
            Columns.Item: split.train.items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(position, unit="D"),
        }
    )


@torch.no_grad()
def rank_rows(
    module: Any, rows: EvalSet, n_items: int, max_len: int, batch_size: int = 256
) -> NDArray[np.float32]:
    """Rank each target of ``rows`` with RecTools' network.

    Parameters
    ----------
    module : RecTools' TransformerLightningModule
    rows : EvalSet
    n_items : int
        Padding included.
    max_len : int
        RecTools' ``session_max_len``.

    Returns
    -------
    float32 [N], average-tie ranks among all items
    """
    known = module.data_preparator.item_id_map.get_external_sorted_by_internal()
    theirs = np.zeros(n_items, np.int64)
    for internal, ours in enumerate(known):
        if internal >= module.data_preparator.n_item_extra_tokens:
            theirs[int(ours)] = internal
    columns = torch.from_numpy(np.flatnonzero(theirs))
    mask = module.data_preparator.extra_token_ids.get(MASKING_VALUE)
    network = module.torch_model
    was_training = network.training
    network.eval()
    item_vectors = network.item_model.get_all_embeddings()
    ranks: list[Tensor] = []
    for begin in range(0, len(rows), batch_size):
        chosen = range(begin, min(begin + batch_size, len(rows)))
        x = np.zeros((len(chosen), max_len), np.int64)
        for line, row in enumerate(chosen):
            history = theirs[rows.history.row(row)]
            history = history[history > 0]
            history = (history if mask is None else np.append(history, mask))[-max_len:]
            x[line, max_len - len(history) :] = history
        states = network.encode_sessions({"x": torch.from_numpy(x)}, item_vectors)[:, -1, :]
        scores = torch.full((len(chosen), n_items), -torch.inf)
        scores[:, columns] = states @ item_vectors[torch.from_numpy(theirs)[columns]].T
        ranks.append(average_tie_rank(scores, torch.from_numpy(rows.targets[begin : begin + len(chosen)])))
    network.train(was_training)
    return torch.cat(ranks).numpy()


class Validation(Callback):
    """Curve, patience and best weights."""

    def __init__(self, args: argparse.Namespace, split: Split) -> None:
        self.args = args
        self.split = split
        self.clock = Clock()
        self.curve = Curve(args.out, self.clock)
        self.best = -1.0
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] = {}
        self.ended = "epoch limit"
        self.eval_seconds = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Validation:
        """RecTools copies its trainer before use; the record must stay one."""
        return self

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self.clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop the clock and measure."""
        self.clock.stop()
        epoch = trainer.current_epoch + 1
        begin = time.process_time()
        rank = rank_rows(pl_module, self.split.valid, self.split.dataset.n_items, self.args.session_max_len)
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
            self.best_state = copy.deepcopy(pl_module.torch_model.state_dict())
        if epoch - self.best_epoch >= self.args.patience:
            self.ended = "early stopping"
        else:
            self.ended = enough(self.args, point.ndcg, point.cpu) or self.ended
        trainer.should_stop = self.ended != "epoch limit"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, rank, write; return the summary."""
    split, _ = load_split(args.dataset)
    seed_everything(args.seed)
    validation = Validation(args, split)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=args.epochs,
            accelerator=args.device,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[validation],
        )

    hparams: dict[str, Any] = {
        "n_blocks": args.n_blocks,
        "n_heads": args.n_heads,
        "n_factors": args.n_factors,
        "dropout_rate": args.dropout,
        "session_max_len": args.session_max_len,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "loss": "softmax",
    }
    if args.model == "BERT4Rec":
        hparams["mask_prob"] = args.mask_prob
    model = MODELS[args.model](**hparams, get_trainer_func=trainer)
    model.fit(RecToolsDataset.construct(interactions(split)))
    module = model.lightning_model
    module.torch_model.load_state_dict(validation.best_state)
    n_items = split.dataset.n_items
    ranks = {
        part: rank_rows(module, getattr(split, part), n_items, args.session_max_len)
        for part in ("valid", "test")
    }
    return write_rival("RecTools", args, hparams, validation, split, ranks)


def main() -> None:
    """Command line."""
    parser = run_arguments(__doc__.splitlines()[0] if __doc__ else None, models=tuple(MODELS))
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation NDCG@10")
    parser.add_argument("--session-max-len", type=int, default=50)
    parser.add_argument("--n-blocks", type=int, default=2)
    parser.add_argument("--n-heads", type=int, default=2)
    parser.add_argument("--n-factors", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.2, help="RecTools' default")
    parser.add_argument("--mask-prob", type=float, default=0.2, help="BERT4Rec")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="Lightning's accelerator: cpu or gpu")
    args = parser.parse_args()
    one_thread()
    summary = run(args)
    print({key: summary[key] for key in ("ended", "epochs", "best_epoch", "cpu_seconds", "valid", "test")})


if __name__ == "__main__":
    main()
