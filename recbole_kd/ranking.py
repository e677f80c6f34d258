"""The rank of each user's target among all items: the one measurement every metric derives from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_kd.data.types import EvalSet

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
    better, equal = scores > goal, scores == goal
    better[:, 0] = False
    equal[:, 0] = False
    if excluded is not None:
        better &= ~excluded
        equal &= ~excluded
    equal.scatter_(1, target[:, None], False)
    return 1.0 + better.sum(1).float() + 0.5 * equal.sum(1).float()


def last_items(eval_set: EvalSet, rows: slice, max_len: int) -> tuple[Tensor, Tensor]:
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
    rank, masked = np.empty(n, np.float32), np.empty(n, np.float32)
    for begin in range(0, n, batch_size):
        rows = slice(begin, min(begin + batch_size, n))
        scores = score(rows)
        target = torch.from_numpy(eval_set.targets[rows]).to(device)
        seen = _seen(eval_set, rows, scores)
        rank[rows] = average_tie_rank(scores, target).cpu().numpy()
        masked[rows] = average_tie_rank(scores, target, seen).cpu().numpy()
    return Ranks(rank, masked)


def _seen(eval_set: EvalSet, rows: slice, scores: Tensor) -> Tensor:
    offsets = eval_set.history.offsets
    lengths = np.diff(offsets)[rows]
    # A copy: what is mapped into memory may not be written, which torch warns of.
    items = np.array(eval_set.history.items[offsets[rows.start] : offsets[rows.stop]])
    user = np.repeat(np.arange(len(lengths)), lengths)
    seen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    seen[torch.from_numpy(user).to(scores.device), torch.from_numpy(items).to(scores.device)] = True
    return seen


_BYTES_PER_SCORE = 12
"""A score, its comparisons with the target's and the mask of seen items."""


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

    def score(rows: slice) -> Tensor:
        item_seq, item_seq_len = last_items(eval_set, rows, max_len)
        states = model.serve_states(item_seq.to(device), item_seq_len.to(device), users[rows].to(device))
        scores = states @ items.t()
        return scores if bias is None else scores.add_(bias)

    try:
        return rank_rows(score, eval_set, batch_size=batch_size, device=device)
    finally:
        model.train(was_training)
