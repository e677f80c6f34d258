"""What RecBole's own classes see of our data.

Two views: :func:`recbole_view` is cheap and enough to construct a model; :func:`recbole_loaders`
is RecBole's full ``SequentialDataset`` with its prefix augmentation and data loaders. Both use the
ids of ``load_dataset``; the full view checks that RecBole comes to the same ones by itself.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.config import Config
from recbole.data import data_preparation
from recbole.data.dataset import SequentialDataset

from recbole_kd.compat import recbole_config
from recbole_kd.data.types import Dataset, EvalSet, Split
from recbole_kd.errors import DataError

USER, ITEM, TIME = "user_id", "item_id", "timestamp"
STEM = "interactions"
# Cells that pandas, and so RecBole, takes for a missing value.
_READ_AS_MISSING = {
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
}


class Catalogue:
    """The part of a RecBole dataset that sequential models read while they are constructed."""

    uid_field, iid_field, time_field = USER, ITEM, TIME

    def __init__(self, dataset: Dataset) -> None:
        self._tokens = {USER: dataset.user_tokens, ITEM: dataset.item_tokens}
        self._ids = {
            field: {str(token): i for i, token in enumerate(tokens)} for field, tokens in self._tokens.items()
        }
        self.dataset_name = dataset.name

    def num(self, field: str) -> int:
        """Number of ids of ``field``, padding included."""
        if field not in self._tokens:
            raise ValueError(f"Field [{field}] not defined in dataset.")
        return len(self._tokens[field])

    @property
    def user_num(self) -> int:
        """Number of user ids, padding included."""
        return self.num(USER)

    @property
    def item_num(self) -> int:
        """Number of item ids, padding included."""
        return self.num(ITEM)

    def token2id(self, field: str, tokens: str | Sequence[str]) -> Any:
        """Ids of tokens, as RecBole's method of that name."""
        ids = self._ids[field]
        return ids[tokens] if isinstance(tokens, str) else np.array([ids[token] for token in tokens])

    def id2token(self, field: str, ids: Any) -> Any:
        """Tokens of ids, as RecBole's method of that name."""
        return self._tokens[field][ids]


@dataclass(frozen=True)
class PrefixData:
    """RecBole's configuration, full dataset and loaders (prefix mode)."""

    config: Config
    dataset: SequentialDataset
    train: Any
    valid: Any
    test: Any


def recbole_view(
    dataset: Dataset,
    model: str | type,
    hparams: Mapping[str, Any],
    *,
    max_item_list_length: int,
    device: str = "cpu",
) -> tuple[Config, Catalogue]:
    """Return ``(config, dataset)`` to construct a RecBole model with; milliseconds, no file.

    Parameters
    ----------
    dataset : Dataset
    model : RecBole's name of a model, or a (sub)class
    hparams : mapping
        Model hyper-parameters and other RecBole settings, laid over RecBole's own properties.
    max_item_list_length : int
        ``MAX_ITEM_LIST_LENGTH``.
    device : torch device
    """
    return _config(model, hparams, max_item_list_length, device, ""), Catalogue(dataset)


def recbole_loaders(
    split: Split,
    model: str | type,
    hparams: Mapping[str, Any],
    *,
    max_item_list_length: int,
    checkpoint_dir: Path,
    device: str = "cpu",
) -> PrefixData:
    """Let RecBole read, augment, split and batch the interactions of ``split`` (leave-one-out).

    The filtered interactions go through an atomic file of their own, in file order, with the
    position in the user's history as time: RecBole keeps float32 times, which lose the order of
    real ones (RecBole #2204, #1653). That file is temporary.

    Raises
    ------
    DataError
        The split is not RecBole's leave-one-out, a sample of it, or RecBole cannot read an id.
    RuntimeError
        RecBole gave other ids than ``load_dataset``.
    """
    dataset = split.dataset
    if split.train_begins is not None:
        raise DataError(
            f"dataset {dataset.name}: RecBole splits by itself in prefix mode and would train on everything; "
            "leave split.sample out or train in sequence mode"
        )
    _refuse_unreadable(dataset)
    with tempfile.TemporaryDirectory(prefix="recbole_kd-") as folder:
        write_canonical(dataset, Path(folder) / STEM / f"{STEM}.inter")
        fixed = {
            "checkpoint_dir": str(checkpoint_dir),
            "dataloaders_save_path": str(Path(folder) / "none"),
            "save_dataset": False,
            "save_dataloaders": False,
        }
        config = _config(model, {**hparams, **fixed}, max_item_list_length, device, folder)
        with warnings.catch_warnings():
            # pandas 3 will ignore RecBole's chained fillna; nothing is blank here.
            warnings.simplefilter("ignore", FutureWarning)
            full = SequentialDataset(config)
        for field, tokens in ((USER, dataset.user_tokens), (ITEM, dataset.item_tokens)):
            if list(full.field2id_token[field]) != list(tokens):
                raise RuntimeError(f"{dataset.name}: RecBole numbers {field} otherwise than load_dataset")
        train, valid, test = data_preparation(config, full)
    for loader, ours in ((valid, split.valid), (test, split.test)):
        _check_targets(loader.dataset.inter_feat, ours, dataset.name)
    return PrefixData(config, full, train, valid, test)


def write_canonical(dataset: Dataset, path: Path) -> None:
    """Write the filtered interactions in file order with the per-user position as time column."""
    sequences = dataset.sequences
    lengths = sequences.lengths
    position = np.arange(1, len(sequences.items) + 1) - np.repeat(sequences.offsets[:-1], lengths)
    rows = dataset.file_rows if dataset.file_rows is not None else np.arange(len(sequences.items))
    frame = pd.DataFrame(
        {
            f"{USER}:token": dataset.user_tokens[np.repeat(sequences.users, lengths)],
            f"{ITEM}:token": dataset.item_tokens[sequences.items],
            f"{TIME}:float": position,
        }
    ).iloc[np.argsort(rows, kind="stable")]
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, sep="\t", index=False, lineterminator="\n")


def _config(
    model: str | type, hparams: Mapping[str, Any], max_item_list_length: int, device: str, data_path: str
) -> Config:
    settings: dict[str, Any] = {
        "data_path": data_path,
        "USER_ID_FIELD": USER,
        "ITEM_ID_FIELD": ITEM,
        "TIME_FIELD": TIME,
        "load_col": {"inter": [USER, ITEM, TIME]},
        "MAX_ITEM_LIST_LENGTH": max_item_list_length,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "mode": "full",
            "group_by": "user",
        },
        "repeatable": True,
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 6,
        "show_progress": False,
        "device": device,
    }
    # RecBole refuses cross-entropy together with its own default of negative samples (#2097).
    if hparams.get("loss_type", "CE") == "CE":
        settings["train_neg_sample_args"] = None
    return recbole_config(model, STEM, settings | dict(hparams))


def _refuse_unreadable(dataset: Dataset) -> None:
    for field, tokens in (("user", dataset.user_tokens), ("item", dataset.item_tokens)):
        for token in tokens:
            if token in _READ_AS_MISSING or '"' in token:
                raise DataError(
                    f"dataset {dataset.name}, field {field}: RecBole's reader takes the id '{token[:60]}' "
                    "for a missing value or a quotation; rename it, or train in sequence mode"
                )


def _check_targets(rows: Any, ours: EvalSet, name: str) -> None:
    users, items = rows[USER].numpy(), rows[ITEM].numpy()
    order = np.argsort(users, kind="stable")
    if not (np.array_equal(users[order], ours.history.users) and np.array_equal(items[order], ours.targets)):
        raise DataError(
            f"dataset {name}: prefix mode splits with RecBole, which knows leave-one-out only; "
            "set split.protocol: leave-one-out or train in sequence mode"
        )
