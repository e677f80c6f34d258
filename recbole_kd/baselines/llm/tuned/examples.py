"""Training examples of tuned rankers: positions of train histories, labels, negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.types import EvalSet, IntArray, Sequences, Split
from recbole_kd.errors import DataError


@dataclass(frozen=True)
class Positions:
    """Places in sequences that can be predicted from what stands before them.

    Attributes
    ----------
    rows : int64 [n]
        Row of the sequences.
    at : int64 [n]
        0-based place of the target in that row.
    """

    rows: IntArray
    at: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: IntArray) -> Positions:
        """Some of them, in the order given."""
        return Positions(self.rows[chosen], self.at[chosen])


def train_positions(train: Sequences, least: int) -> Positions:
    """Every place of the train part with at least ``least`` items before it, row by row."""
    lengths = train.lengths
    count = np.maximum(lengths - least, 0)
    rows = np.repeat(np.arange(len(train)), count)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    at = np.arange(int(count.sum())) - np.repeat(begin, count) + least
    return Positions(rows.astype(np.int64), at.astype(np.int64))


def drawn(positions: Positions, shots: int | None, seed: int) -> Positions:
    """A seeded sample; 16 examples are among the 64 of the same seed. ``None``: all, in that order."""
    order = np.random.default_rng(seed).permutation(len(positions))
    return positions.take(order[:shots])


class Ratings:
    """Ratings of the interactions, by user and place in the history.

    Histories of evaluated users begin where the user's whole sequence begins, as every split protocol cuts
    them; train rows begin later where the split is a sample of everybody's latest interactions.
    """

    def __init__(self, split: Split) -> None:
        dataset = split.dataset
        assert dataset.ratings is not None
        self._values, self._sequences, self._train = dataset.ratings, dataset.sequences, split.train
        self._begins = split.train_begins

    def of(self, user: int, stop: int, begin: int = 0) -> NDArray[np.float32]:
        """``stop`` ratings of a user, after the first ``begin``."""
        row = int(np.searchsorted(self._sequences.users, user))
        begin += int(self._sequences.offsets[row])
        return self._values[begin : begin + stop]

    def train_begin(self, row: int) -> int:
        """Interactions of a train row's user that stand before it."""
        return 0 if self._begins is None else int(self._begins[row])

    def train(self) -> NDArray[np.float32]:
        """Ratings of the train interactions."""
        users, lengths = self._train.users, self._train.lengths
        return np.concatenate(
            [
                self.of(int(u), int(n), self.train_begin(row))
                for row, (u, n) in enumerate(zip(users, lengths, strict=True))
            ]
        )

    def at(self, user: int, place: int, begin: int = 0) -> float:
        """One rating, of the interaction ``place`` after the first ``begin``."""
        return float(self.of(user, place + 1, begin)[-1])


def other_items(known: IntArray, catalogue: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    """``n`` different items of ``catalogue``, uniformly, none of them in ``known``.

    Raises
    ------
    DataError
        The catalogue has fewer.
    """
    free = len(catalogue) - len(np.intersect1d(known, catalogue))
    if free < n:
        raise DataError(
            f"{n} negatives are wanted, the train part has {free} items that a user does not know"
        )
    if free < 4 * n:
        return rng.permutation(np.setdiff1d(catalogue, known))[:n]
    taken = set(known.tolist())
    found: list[int] = []
    while len(found) < n:
        item = int(catalogue[rng.integers(len(catalogue))])
        if item not in taken:
            taken.add(item)
            found.append(item)
    return np.array(found, np.int64)


def trained_items(split: Split) -> IntArray:
    """Items with a train interaction, ascending."""
    return np.flatnonzero(split.train_item_counts() > 0).astype(np.int64)


def some_users(part: EvalSet, n: int | None, seed: int) -> IntArray:
    """Rows of a seeded sample of evaluated users, ascending."""
    if n is None or n >= len(part):
        return np.arange(len(part))
    return np.sort(np.random.default_rng(seed).permutation(len(part))[:n])
