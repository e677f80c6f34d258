"""ItemKNN: cosine between item columns, k nearest kept (Aiolli, RecSys 2013; as in RecBole 1.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recbole_kd.baselines.scorer import Scorer, interaction_matrix, linear_scorer
from recbole_kd.data.types import Split
from recbole_kd.models.side import SideInputs

_BLOCK = 512
_EPSILON = 1e-6


def compute(split: Split, hparams: Mapping[str, Any], side: SideInputs) -> Scorer:
    """score(u, j) = sum over i in history of w_ij, w_ij = x_i.x_j / (|x_i||x_j| + shrink + 1e-6).

    Only the ``k`` nearest items of every j count.
    """
    matrix = interaction_matrix(split.train, split.dataset.n_items)
    weights = nearest(matrix, int(hparams["k"]), float(hparams["shrink"]))
    state = {
        "data": torch.from_numpy(weights.data),
        "indices": torch.from_numpy(weights.indices.astype(np.int32)),
        "indptr": torch.from_numpy(weights.indptr.astype(np.int32)),
    }
    return linear_scorer(weights, state, weights.nnz)


def nearest(matrix: sp.csr_matrix, k: int, shrink: float) -> sp.csc_matrix:
    """Similarities [n_items, n_items] whose column j holds the ``k`` nearest items of j.

    Parameters
    ----------
    matrix : float32 [n_users, n_items]
    k : int
    shrink : float
    """
    n = matrix.shape[1]
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(0)).ravel())
    columns, transposed = matrix.tocsc(), matrix.T.tocsr()
    blocks = []
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        block = (transposed @ columns[:, begin:end]).toarray().T  # [block, n]
        block[np.arange(end - begin), np.arange(begin, end)] = 0.0
        block /= norm[begin:end, None] * norm[None, :] + shrink + _EPSILON
        if k < n:
            smallest = np.argpartition(-block, k - 1, axis=1)[:, k:]
            np.put_along_axis(block, smallest, 0.0, axis=1)
        blocks.append(sp.csr_matrix(block))
    return sp.vstack(blocks).T.tocsc().astype(np.float32)
