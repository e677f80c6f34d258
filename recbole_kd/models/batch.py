"""One pass per sequence: cutting histories into pieces and packing them into rectangular batches.

RecBole turns a history of n items into n - 1 padded rows with one loss each; more than 98 % of its
epoch is spent there. Here a history is cut into pieces of at most ``max_len`` positions and every
position carries a loss, so an epoch touches each interaction once. Short pieces share a row (several
segments, attention kept inside each), so that hardly any padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd.data.types import Sequences
from recbole_kd.errors import DataError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """A rectangle of ``B`` rows and ``L`` columns that holds ``P`` pieces.

    Attributes
    ----------
    item_seq : int64 [B, L]
        Input items, 0 is padding.
    target : int64 [B, L]
        Item to predict at every position, 0 where there is none.
    position : int64 [B, L]
        Position inside the piece, from 0.
    segment : int64 [B, L]
        Number of the piece, 0..P-1; ``P`` on padding.
    user : int64 [P]
        User id of every piece.
    length : int64 [P]
        Items of every piece.
    start : int64 [P]
        Items of the user's train history before the piece.
    history : int64 [P]
        Items of the user's whole train history.
    single : bool
        True if no row holds two pieces (needed by recurrent backbones).
    at : int64 [T] or None
        Positions with a target, counted through the rows. A batch that has it is prepared.
    host_user : int64 [P] or None
        ``user`` in the memory of the host.
    """

    item_seq: Tensor
    target: Tensor
    position: Tensor
    segment: Tensor
    user: Tensor
    length: Tensor
    start: Tensor
    history: Tensor
    single: bool
    at: Tensor | None = None
    host_user: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Copy every tensor to ``device``."""
        changed: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "host_user"
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Pieces:
    """Stretches of histories: piece p is ``items[start[p]:start[p] + length[p]]`` of ``user[p]``."""

    start: IntArray
    length: IntArray
    user: IntArray

    def __len__(self) -> int:
        return len(self.start)


def cut(
    starts: IntArray, lengths: IntArray, users: IntArray, max_len: int, rng: np.random.Generator
) -> Pieces:
    """Cut stretches ``[start, start + length)`` into pieces of at most ``max_len``, from a random phase on.

    Stretches no longer than ``max_len`` stay whole. Every element falls into exactly one piece; the phase
    is drawn anew at each call, so over the epochs each position sees contexts of every length.

    Parameters
    ----------
    starts, lengths, users : int64 [N]
    max_len : int
    rng : numpy Generator
    """
    long = lengths > max_len
    phase = np.where(long, rng.integers(1, max_len + 1, size=len(lengths)), lengths)
    rest = lengths - phase
    n_pieces = 1 + -(-rest // max_len)
    row = np.repeat(np.arange(len(lengths)), n_pieces)
    number = np.arange(len(row)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    begin = np.where(number == 0, 0, phase[row] + (number - 1) * max_len)
    end = np.minimum(phase[row] + number * max_len, lengths[row])
    keep = end > begin
    return Pieces(start=(starts[row] + begin)[keep], length=(end - begin)[keep], user=users[row][keep])


def pack(length: IntArray, max_len: int) -> tuple[IntArray, IntArray, int]:
    """Place pieces into rows of ``max_len`` (best fit, longest first).

    Returns
    -------
    row : int64 [P]
    column : int64 [P]
        Column of the first item of every piece.
    n_rows : int
    """
    order = np.argsort(-length, kind="stable")
    row, column = np.empty(len(length), np.int64), np.empty(len(length), np.int64)
    # Rows by the room that is left in them, each a stack. Pieces of one size fill a row of the tightest room
    # before they touch another, so that they are placed together: the work does not grow with their number.
    stacks: list[IntArray] = [np.empty(0, np.int64) for _ in range(max_len + 1)]
    n_rows = done = 0
    for size in range(max_len, 0, -1):
        left = order[done : done + int((length == size).sum())]
        done += len(left)
        while len(left):
            room = next((r for r in range(size, max_len) if len(stacks[r])), max_len)
            each = room // size
            wanted = -(-len(left) // each)
            if room < max_len:
                chosen = stacks[room][::-1][:wanted]
                stacks[room] = stacks[room][: len(stacks[room]) - len(chosen)]
            else:
                chosen = np.arange(n_rows, n_rows + wanted)
                n_rows += wanted
            put, left = left[: len(chosen) * each], left[len(chosen) * each :]
            place = np.arange(len(put))
            row[put] = chosen[place // each]
            column[put] = max_len - room + place % each * size
            last = len(put) - (len(chosen) - 1) * each
            for rows, rest in ((chosen[:-1], room - each * size), (chosen[-1:], room - last * size)):
                stacks[rest] = np.concatenate([stacks[rest], rows])
    return row, column, n_rows


class SequenceBatches:
    """Batches of one epoch after another over the same train sequences.

    Parameters
    ----------
    train : Sequences
        Train histories; rows with nothing to predict are left out (they are counted in the split).
    max_len : int
        Longest input (RecBole's ``MAX_ITEM_LIST_LENGTH``).
    batch_size : int
        Rows per step.
    shift : bool
        True: inputs are items 0..n-2 and targets items 1..n-1 (next-item models). False: inputs are
        all items and ``target`` repeats them (masked-item models mask for themselves).
    packed : bool
        Several pieces per row (attention models) or one (recurrent models, bucketed by length).

    Raises
    ------
    DataError
        Nobody has anything to predict: such a training would end with its initial weights.
    """

    def __init__(self, train: Sequences, max_len: int, batch_size: int, *, shift: bool, packed: bool) -> None:
        self._shift, self._packed = shift, packed
        self._max_len, self._batch_size = max_len, batch_size
        lengths = train.lengths - (1 if shift else 0)
        keep = lengths > 0
        if not keep.any():
            least = 2 if shift else 1
            raise DataError(
                f"train part: none of {len(lengths)} users has {least} interactions, so there is nothing "
                "to predict; keep more of them (split.sample, filters) or take another split."
            )
        self._users, self._lengths = train.users[keep], lengths[keep]
        self._history = train.lengths[keep]
        self._items, self._starts = train.items, train.offsets[:-1][keep]

    @property
    def n_targets(self) -> int:
        """Number of positions that carry a loss in one epoch (for masked models: could carry)."""
        return int(self._lengths.sum())

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the shuffled batches of one epoch; all randomness comes from ``rng``."""
        pieces = cut(self._starts, self._lengths, self._users, self._max_len, rng)
        shuffle = rng.permutation(len(pieces))
        pieces = Pieces(pieces.start[shuffle], pieces.length[shuffle], pieces.user[shuffle])
        if self._packed:
            row, column, n_rows = pack(pieces.length, self._max_len)
            row = rng.permutation(n_rows)[row]
        else:
            row, column = self._bucketed_rows(pieces.length, rng), np.zeros(len(pieces), np.int64)
            n_rows = len(pieces)
        order = np.argsort(row, kind="stable")
        bounds = np.searchsorted(row[order], np.arange(0, n_rows + self._batch_size, self._batch_size))
        steps = [order[a:b] for a, b in pairwise(bounds) if b > a]
        for k in rng.permutation(len(steps)).tolist():
            chosen = steps[k]
            yield self._batch(pieces, chosen, row[chosen], column[chosen])

    def _bucketed_rows(self, length: IntArray, rng: np.random.Generator) -> IntArray:
        """Number the pieces so that neighbours have similar lengths (random within a length)."""
        row = np.empty(len(length), np.int64)
        row[np.argsort(length, kind="stable")] = np.arange(len(length))
        return row

    def _batch(self, pieces: Pieces, chosen: IntArray, row: IntArray, column: IntArray) -> Batch:
        length = pieces.length[chosen]
        origin = np.searchsorted(self._starts, pieces.start[chosen], "right") - 1
        n_pieces = len(chosen)
        width = self._max_len if self._packed else int(length.max())
        row = row - row.min()
        height = int(row.max()) + 1
        which = np.repeat(np.arange(n_pieces), length)
        position = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
        source = pieces.start[chosen][which] + position
        cell = row[which] * width + column[which] + position
        items = self._items[source]
        grid = {
            "item_seq": (items, 0),
            "target": (self._items[source + 1] if self._shift else items, 0),
            "position": (position, 0),
            "segment": (which, n_pieces),
        }
        tensors = {}
        for name, (values, empty) in grid.items():
            flat = np.full(height * width, empty, np.int64)
            flat[cell] = values
            tensors[name] = torch.from_numpy(flat).view(height, width)
        return Batch(
            **tensors,
            user=torch.from_numpy(pieces.user[chosen]),
            length=torch.from_numpy(length),
            start=torch.from_numpy(pieces.start[chosen] - self._starts[origin]),
            history=torch.from_numpy(self._history[origin]),
            single=not self._packed,
        )


def segment_mask(segment: Tensor, *, causal: bool) -> Tensor:
    """Which position may attend to which: same piece, and for ``causal`` not later.

    Parameters
    ----------
    segment : int64 [B, L]

    Returns
    -------
    bool [B, 1, L, L]
        The diagonal is always True, padding attends to padding.
    """
    same = segment[:, None, :, None] == segment[:, None, None, :]
    return same.tril() if causal else same
