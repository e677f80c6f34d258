"""What a system with a closed form gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_kd.data.types import EvalSet, Sequences

ScoreRows = Callable[[EvalSet, slice], Tensor]
"""(evaluation set, rows) -> scores [B, n_items]"""


@dataclass(frozen=True)
class Scorer:
    """A fitted system.

    Attributes
    ----------
    score : callable
        Scores of all items for some rows of an evaluation set.
    state : dict of str to Tensor
        What of it is worth storing.
    n_parameters : int
        Numbers that the data decided.
    """

    score: ScoreRows
    state: dict[str, Tensor]
    n_parameters: int


def interaction_matrix(sequences: Sequences, n_items: int, rows: slice | None = None) -> sp.csr_matrix:
    """Which row holds which item, float32 [N, n_items], 1 however often.

    Parameters
    ----------
    sequences : Sequences
    n_items : int
    rows : slice, optional
        Only these rows.
    """
    rows = rows or slice(0, len(sequences))
    offsets = sequences.offsets[rows.start : rows.stop + 1]
    items = sequences.items[offsets[0] : offsets[-1]]
    shape = (len(offsets) - 1, n_items)
    counted = sp.csr_matrix((np.ones(len(items), np.float32), items, offsets - offsets[0]), shape=shape)
    counted.sum_duplicates()
    counted.data[:] = 1.0
    return counted


def linear_scorer(weights: np.ndarray | sp.spmatrix, state: dict[str, Tensor], n_parameters: int) -> Scorer:
    """Score = history vector times an item-item matrix [n_items, n_items]; new users are no special case."""

    def score(part: EvalSet, rows: slice) -> Tensor:
        scores = interaction_matrix(part.history, weights.shape[0], rows) @ weights
        dense = scores.toarray() if sp.issparse(scores) else np.asarray(scores)
        return torch.from_numpy(np.ascontiguousarray(dense, np.float32))

    return Scorer(score, state, n_parameters)
