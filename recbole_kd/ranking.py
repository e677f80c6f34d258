"""The rank of each user's target among all items: the one measurement every metric derives from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd.data.types import EvalSet, Rows, Sequences

Scorer = Callable[[Tensor, Tensor], Tensor]
"""(item_seq [B, L], item_seq_len [B]) -> scores [B, n_items]"""


@dataclass(frozen=True)
class Ranks:
    """Average-tie ranks, 1 = best.

    Attributes
    ----------
    rank : float32 [N]
        Among all items but padding (RecBole's full ranking for sequential models).
    rank_masked : float32 [N]
        Items of the user's history removed; the target itself always stays.
    """

    rank: NDArray[np.float32]
    rank_masked: NDArray[np.float32]


def average_tie_rank(scores: Tensor, target: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Rank of ``target`` by descending score, ties sharing the mean of their places.

    Parameters
    ----------
    scores : float [B, V]
        Column 0 (padding) is ignored.
    target : int64 [B]
    excluded : bool [B, V], optional
        Items that do not compete. The target always does.

    Returns
    -------
    float32 [B]: 1 + #(better) + #(equal others) / 2

    Raises
    ------
    ValueError
        If a target's score is NaN.
    """
    goal = scores.gather(1, target[:, None])
    if bool(goal.isnan().any()):
        raise ValueError("the model scored a target NaN")
    # Neither padding nor the target itself, which equals itself, takes a place before it.
    found = 0.5 + _points(scores, goal) - _points(scores[:, :1], goal)
    if excluded is None:
        return found
    return _without(found, scores, target, *excluded.nonzero(as_tuple=True))


_STRIP_BYTES = 1 << 20
"""Scores compared at a time: comparisons are written as numbers, which add up fast, and stay in the cache."""


def _points(scores: Tensor, goal: Tensor) -> Tensor:
    """1 for each score of a row above its ``goal`` [B, 1], 1/2 for each equal one: exact float32 [B]."""
    n = max(1, scores.shape[1])
    rows = max(1, _STRIP_BYTES // (4 * n)) if scores.device.type == "cpu" else max(1, len(scores))
    compared = torch.empty(min(rows, len(scores)), n, device=scores.device)
    points = torch.empty(len(scores), device=scores.device)
    for begin in range(0, len(scores), rows):
        some = slice(begin, begin + rows)
        part, out = scores[some], compared[: len(scores[some])]
        better = torch.gt(part, goal[some], out=out).sum(1)
        points[some] = (better + torch.ge(part, goal[some], out=out).sum(1)) / 2
    return points


def _without(rank: Tensor, scores: Tensor, target: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """Ranks when the ``item`` of each ``row`` (distinct pairs) does not compete; the target always does."""
    other = (item != target[row]) & (item != 0)
    row, item = row[other], item[other]
    taken = _points(scores[row, item, None], scores[row, target[row], None])
    return rank.index_add(0, row, taken, alpha=-1)


def last_items(eval_set: EvalSet, rows: Rows, max_len: int) -> tuple[Tensor, Tensor]:
    """Right-padded last ``max_len`` history items of ``rows``.

    Returns
    -------
    item_seq : int64 [B, L]
    item_seq_len : int64 [B]
    """
    ends = eval_set.history.offsets[1:][rows]
    lengths = np.minimum(ends - eval_set.history.offsets[:-1][rows], max_len)
    column = np.arange(max_len)
    real = column < lengths[:, None]
    source = np.where(real, (ends - lengths)[:, None] + column, 0)
    grid = np.where(real, eval_set.history.items[source], 0)
    return torch.from_numpy(grid), torch.from_numpy(lengths)


def rank_all(
    score: Scorer, eval_set: EvalSet, *, max_len: int, batch_size: int, device: str = "cpu"
) -> Ranks:
    """Rank every target of ``eval_set`` with any scorer.

    Parameters
    ----------
    score : callable
        ``(item_seq [B, L], item_seq_len [B]) -> [B, n_items]``.
    eval_set : EvalSet
    max_len : int
        Longest input.
    batch_size : int
        Users per call; bounds memory at ``batch_size * n_items`` scores.
    """

    def score_rows(rows: slice) -> Tensor:
        item_seq, item_seq_len = last_items(eval_set, rows, max_len)
        return score(item_seq.to(device), item_seq_len.to(device))

    return rank_rows(score_rows, eval_set, batch_size=batch_size, device=device)


def rank_rows(
    score: Callable[[slice], Tensor], eval_set: EvalSet, *, batch_size: int, device: str = "cpu"
) -> Ranks:
    """Rank every target with a scorer that looks its rows up itself (whole histories, user ids).

    Parameters
    ----------
    score : callable
        Rows of ``eval_set``, asked for in order -> [B, n_items].
    eval_set, batch_size, device : as in :func:`rank_all`
    """
    n = len(eval_set)
    tiles = [slice(begin, min(begin + batch_size, n)) for begin in range(0, n, batch_size)]
    return _rank_tiles(score, eval_set, tiles, device)


def _rank_tiles(
    score: Callable[[Any], Tensor], eval_set: EvalSet, tiles: Sequence[Rows], device: str
) -> Ranks:
    rank, masked = np.empty(len(eval_set), np.float32), np.empty(len(eval_set), np.float32)
    for rows in tiles:
        scores, part = score(rows), eval_set.take(rows)
        target = torch.from_numpy(part.targets).to(device)
        among_all = average_tie_rank(scores, target)
        row, item = (x.to(scores.device) for x in _seen(part.history))
        rank[rows] = among_all.cpu().numpy()
        masked[rows] = _without(among_all, scores, target, row, item).cpu().numpy()
    return Ranks(rank, masked)


def _seen(history: Sequences) -> tuple[Tensor, Tensor]:
    """Distinct pairs of (row, item of its history), int64 [M] each."""
    width = int(history.items.max(initial=0)) + 1
    row = np.repeat(np.arange(len(history)), history.lengths)
    row, item = np.divmod(np.unique(row * width + history.items), width)
    return torch.from_numpy(row), torch.from_numpy(item)


_BYTES_PER_SCORE = 12
"""A score, its comparison with the target's where it is made for a whole tile, and as much to spare."""

_WIDTHS = 8
"""Histories are padded to multiples of this: few shapes, each of which a library may keep a kernel for."""


def users_that_fit(n_items: int, memory_mb: int) -> int:
    """Users whose scores over ``n_items`` stay within ``memory_mb``, at least one."""
    return max(1, (memory_mb << 20) // (_BYTES_PER_SCORE * n_items))


@torch.no_grad()
def rank_targets(
    model: Any,
    eval_set: EvalSet,
    *,
    max_len: int,
    batch_size: int,
    device: str = "cpu",
    memory_mb: int | None = None,
) -> Ranks:
    """Rank every target with a student; sets the model to evaluation mode and back.

    Users are ranked in the order of their histories' lengths, so that a tile is padded to the longest of
    its own only.

    Parameters
    ----------
    model : student
    eval_set : EvalSet
    max_len : int
    batch_size : int
        Users per tile, at most.
    device : str
    memory_mb : int, optional
        For the scores of a tile; a large catalogue has smaller tiles.
    """
    was_training = model.training
    model.eval()
    items, bias = model.item_table()

    users = torch.from_numpy(eval_set.history.users)
    if memory_mb is not None:
        batch_size = min(batch_size, users_that_fit(len(items), memory_mb))

    lengths = np.minimum(eval_set.history.lengths, max_len)
    by_length = np.argsort(lengths, kind="stable")

    def score(rows: NDArray[np.int64]) -> Tensor:
        # A place more than the longest history: BERT4Rec's mask goes there, or takes that of its oldest item.
        width = (int(lengths[rows].max()) // _WIDTHS + 1) * _WIDTHS
        item_seq, item_seq_len = last_items(eval_set, rows, min(width, max_len))
        states = model.serve_states(item_seq.to(device), item_seq_len.to(device), users[rows].to(device))
        scores = states @ items.t()
        return scores if bias is None else scores.add_(bias)

    try:
        tiles = [by_length[begin : begin + batch_size] for begin in range(0, len(eval_set), batch_size)]
        return _rank_tiles(score, eval_set, tiles, device)
    finally:
        model.train(was_training)
