"""Reading and aligning ``ranks.parquet`` files (format in docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.panel import Panel
from recbole_kd.errors import StoreError

_TOKENS = ("user", "item")
_COUNTS = ("train_len", "history_len", "item_count")


@dataclass(frozen=True)
class RanksFile:
    """One split of one ``ranks.parquet``.

    Attributes
    ----------
    targets : pyarrow.Table [N]
        ``user``, ``item`` (dictionary-encoded tokens), ``train_len``, ``history_len``, ``item_count``.
    rank : float32 [N]
    """

    targets: pa.Table
    rank: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        """Number of different users."""
        return len(pc.unique(self.targets["user"]))

    def share(self, known: dict[Any, Any]) -> RanksFile:
        """Use an equal ``targets`` seen before, so that 500 runs hold their users once."""
        for other in known.setdefault(len(self.targets), []):
            if self.targets.equals(other):
                return replace(self, targets=other)
        known[len(self.targets)].append(self.targets)
        return self


def read_ranks(path: Path, *, split: str, masked: bool) -> RanksFile:
    """Read one split of a ranks file.

    Raises
    ------
    StoreError
        The file is missing, truncated, lacks a column, has no row of the split, a rank that is
        not a number of at least 1, or a (user, item) twice.
    """
    column = "rank_masked" if masked else "rank"
    names = ["split", *_TOKENS, column, *_COUNTS]
    try:
        present = pq.read_schema(path).names
        lacking = [n for n in names if n not in present]
        if lacking:
            raise StoreError(f"{path}: lacks column {', '.join(lacking)}")
        with pq.ParquetFile(path, read_dictionary=["split", *_TOKENS]) as file:
            table = file.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    table = table.filter(pc.equal(table["split"].cast(pa.string()), split))
    if len(table) == 0:
        raise StoreError(f"{path}: has no row with split '{split}'")
    rank = table[column].to_numpy().astype(np.float32)
    bad = np.flatnonzero(~(rank >= 1))
    if len(bad):
        raise StoreError(f"{path}: {column} of row {bad[0]} ({split}) is {rank[bad[0]]}, expected at least 1")
    targets = table.select([*_TOKENS, *_COUNTS]).combine_chunks().unify_dictionaries()
    if targets["user"].null_count or targets["item"].null_count:
        raise StoreError(f"{path}: a user or item of split '{split}' is null")
    file_ = RanksFile(targets=targets, rank=rank)
    if file_.n_users < len(targets):
        twice = _frame(targets).duplicated(list(_TOKENS))
        if twice.any():
            raise StoreError(f"{path}: row {int(np.argmax(twice))} ({split}) repeats a (user, item)")
    return file_


def _frame(targets: pa.Table) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name in _TOKENS:
        columns[name] = targets[name].cast(pa.string()).to_pandas()
    for name in _COUNTS:
        columns[name] = targets[name].to_numpy().astype(np.int32)
    return pd.DataFrame(columns)


def build_panel(dataset: str, files: Mapping[str, RanksFile]) -> Panel:
    """Align the runs of one dataset on the union of their (user, target) rows.

    Parameters
    ----------
    dataset : str
    files : mapping of cell digest to RanksFile

    Returns
    -------
    Panel
        ``rank`` is NaN where a run lacks a row.
    """
    frames = {id(f.targets): _frame(f.targets) for f in files.values()}
    union = (
        pd.concat(list(frames.values()), ignore_index=True)
        if len(frames) > 1
        else next(iter(frames.values()))
    )
    union = union.drop_duplicates(list(_TOKENS)).sort_values(list(_TOKENS), ignore_index=True)
    index = pd.MultiIndex.from_frame(union[list(_TOKENS)])
    places = {key: index.get_indexer(pd.MultiIndex.from_frame(f[list(_TOKENS)])) for key, f in frames.items()}
    rank = np.full((len(files), len(union)), np.nan, dtype=np.float32)
    for row, file in enumerate(files.values()):
        rank[row, places[id(file.targets)]] = file.rank
    for name in _TOKENS:
        union[name] = union[name].astype("category")
    return Panel(dataset=dataset, targets=union, cells=tuple(files), rank=rank)
