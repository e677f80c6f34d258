"""What the data layer hands to everybody else: sequences, splits and targets.

Ids are RecBole's: 0 is padding, real users and items start at 1. Ragged data are CSR pairs
(``offsets``, ``items``); row ``r`` owns ``items[offsets[r]:offsets[r + 1]]`` in time order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.scratch import Scratch

IntArray = NDArray[np.int64]
Rows = slice | IntArray
"""Places of rows, counted from 0."""


@dataclass(frozen=True)
class Sequences:
    """Ragged item sequences.

    Attributes
    ----------
    users : int64 [N]
        User id of every row, ascending, each at most once.
    offsets : int64 [N + 1]
    items : int64 [offsets[-1]]
    """

    users: IntArray
    offsets: IntArray
    items: IntArray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> IntArray:
        """Number of items of every row, int64 [N]."""
        return np.diff(self.offsets)

    def row(self, r: int) -> IntArray:
        """Items of row ``r`` (not of user ``r``) in time order."""
        return self.items[self.offsets[r] : self.offsets[r + 1]]


@dataclass(frozen=True)
class EvalSet:
    """One target per row and everything that the model may see before it.

    Attributes
    ----------
    history : Sequences
        Whole history before the target (not cut to the maximum length).
    targets : int64 [N]
    """

    history: Sequences
    targets: IntArray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Rows) -> EvalSet:
        """Some rows, in the order given."""
        history = self.history
        lengths = history.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(history.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return EvalSet(Sequences(history.users[rows], offsets, history.items[places]), self.targets[rows])


@dataclass(frozen=True)
class Dataset:
    """Filtered interactions in true per-user order, with tokens.

    Attributes
    ----------
    name : str
    user_tokens, item_tokens : object [n_users], [n_items]
        Index 0 is ``"[PAD]"``.
    sequences : Sequences
        All interactions, every user, in order of (time, file line).
    times : float64 [nnz]
        The file's own time column (not RecBole's float32), aligned with ``sequences.items``.
    ratings : float32 [nnz] or None
    counts : dict
        What reading and filtering saw and dropped; printed and stored with every run.
    digest : str
        Content address of the filtered interactions.
    file_rows : int64 [nnz] or None
        Place of every interaction among the kept lines of the file, aligned with
        ``sequences.items``; ids count first appearances in that order, as RecBole's do.
    scratch : Scratch or None
        Where a dataset past RAM keeps its arrays; what is cut from it goes there too.
    """

    name: str
    user_tokens: NDArray[np.object_]
    item_tokens: NDArray[np.object_]
    sequences: Sequences
    times: NDArray[np.float64]
    ratings: NDArray[np.float32] | None
    counts: dict[str, int]
    digest: str
    file_rows: IntArray | None = None
    scratch: Scratch | None = None

    @property
    def n_users(self) -> int:
        """Number of user ids, padding included."""
        return len(self.user_tokens)

    @property
    def n_items(self) -> int:
        """Number of item ids, padding included (RecBole's ``dataset.num(item_id)``)."""
        return len(self.item_tokens)


@dataclass(frozen=True)
class Split:
    """Train / valid / test, identical for every method.

    ``train`` holds every interaction a model may learn from; ``valid`` and ``test`` one target
    per evaluated user. ``counts`` says how many users each part has and who was too short.
    ``train_begins`` (int64 [len(train)], or None: zeros) says how many of the user's interactions stand
    before the row's first one (`recbole_kd.data.sample`).
    """

    dataset: Dataset
    train: Sequences
    valid: EvalSet
    test: EvalSet
    digest: str
    counts: dict[str, int] = field(default_factory=dict)
    train_begins: IntArray | None = None

    def train_item_counts(self) -> IntArray:
        """Train interactions of every item, int64 [n_items]."""
        return np.bincount(self.train.items, minlength=self.dataset.n_items).astype(np.int64)
