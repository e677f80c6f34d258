"""Train histories of a split: the only interactions that a profile may see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from recbole_kd.data.history import history_hash
from recbole_kd.data.types import Split
from recbole_kd.errors import LeakageError, ProfileError
from recbole_kd.strict import Strict


class AsOf(Strict):
    """How much of every train history a profile may see.

    ``fraction``: the first ``value`` share of the items, rounded up; ``time``: items whose time is
    at most ``value`` (units of the time column); ``timeline``: items up to the moment before which the share
    ``value`` of all interactions of the dataset lie; ``items``: the first ``value`` items.
    """

    kind: Literal["fraction", "time", "timeline", "items"]
    value: float


@dataclass(frozen=True)
class UserHistory:
    """A prefix of one user's train sequence.

    Attributes
    ----------
    user : str
    items : tuple of str
        Item tokens in time order; ``items[:last]`` of the train sequence.
    ratings : tuple of float, or None
    times : tuple of float
    hash : str
        ``history_hash`` of ``items``.
    """

    user: str
    items: tuple[str, ...]
    ratings: tuple[float, ...] | None
    times: tuple[float, ...]
    hash: str

    @property
    def last(self) -> int:
        """Number of interactions seen."""
        return len(self.items)

    def prefix(self, n: int) -> UserHistory:
        """Return the first ``n`` interactions."""
        if n >= self.last:
            return self
        items = self.items[:n]
        ratings = None if self.ratings is None else self.ratings[:n]
        return replace(self, items=items, ratings=ratings, times=self.times[:n], hash=history_hash(items))


def train_histories(split: Split, as_of: AsOf | None = None) -> list[UserHistory]:
    """Histories of all train users, ascending by user id; users left without an item are dropped.

    Parameters
    ----------
    split : Split
    as_of : AsOf, optional
        Cut every history; None keeps the whole train part.

    Raises
    ------
    ProfileError
        The train part is not a prefix of the user's interactions (a foreign split protocol).
    """
    data = split.dataset
    if as_of is not None and as_of.kind == "timeline":
        as_of = AsOf(kind="time", value=float(np.quantile(data.times, as_of.value)))
    row_of = np.full(data.n_users, -1, np.int64)
    row_of[data.sequences.users] = np.arange(len(data.sequences))
    tokens = data.item_tokens
    histories = []
    for r, user in enumerate(split.train.users.tolist()):
        ids = split.train.row(r)
        start = int(data.sequences.offsets[row_of[user]])
        start += 0 if split.train_begins is None else int(split.train_begins[r])
        whole = slice(start, start + len(ids))
        if row_of[user] < 0 or not np.array_equal(data.sequences.items[whole], ids):
            raise ProfileError(
                f"split of dataset {data.name}, user '{data.user_tokens[user]}': the train part is not the "
                "beginning of the user's interactions; profiles need a split that cuts histories in time"
            )
        items = tuple(str(tokens[i]) for i in ids)
        ratings = None if data.ratings is None else tuple(data.ratings[whole].tolist())
        full = UserHistory(str(data.user_tokens[user]), items, ratings, tuple(data.times[whole].tolist()), "")
        cut = full.prefix(_length(full, as_of)) if as_of else full
        if cut.last:
            histories.append(cut if cut.hash else replace(cut, hash=history_hash(cut.items)))
    return histories


def _length(history: UserHistory, as_of: AsOf) -> int:
    if as_of.kind == "fraction":
        # The small slack keeps 0.7 * 10 = 7.000000000000001 from becoming 8.
        return math.ceil(as_of.value * history.last - 1e-9)
    if as_of.kind == "items":
        return int(as_of.value)
    return int(np.searchsorted(np.asarray(history.times), as_of.value, side="right"))


def check_history(split: Split, user: str, items: tuple[str, ...]) -> None:
    """Refuse a history that is not a prefix of the user's train sequence.

    The builder calls this for every history before a prompt is made, so that a slipped-in
    validation item is caught before money is spent; ``load_profiles`` checks again before training.

    Raises
    ------
    LeakageError
    """
    guard = LeakageGuard(split)
    guard.check(user, items)


class LeakageGuard:
    """Compares histories with the train part of one split."""

    def __init__(self, split: Split) -> None:
        data = split.dataset
        self._tokens = data.item_tokens
        self._train = split.train
        self._rows = {str(data.user_tokens[u]): r for r, u in enumerate(split.train.users.tolist())}
        self._name = data.name

    def train_items(self, user: str) -> tuple[str, ...]:
        """Return item tokens of the user's train sequence; empty for a user who has none."""
        row = self._rows.get(user)
        return () if row is None else tuple(str(self._tokens[i]) for i in self._train.row(row))

    def check(self, user: str, items: tuple[str, ...]) -> None:
        """Raise ``LeakageError`` unless ``items`` begins the train sequence of ``user``."""
        train = self.train_items(user)
        if items != train[: len(items)]:
            at = next((i for i, item in enumerate(items) if i >= len(train) or item != train[i]), len(train))
            raise LeakageError(
                f"dataset {self._name}, user '{user}', position {at + 1}: item '{items[at]}' is not the "
                f"user's train interaction there ({len(train)} train interactions); build histories with "
                "profiles.history.train_histories for the split in use"
            )
