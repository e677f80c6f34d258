"""EASE^R: embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv 1905.03375)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_kd.baselines.scorer import Scorer, interaction_matrix, linear_scorer
from recbole_kd.data.types import Split
from recbole_kd.models.side import SideInputs


def compute(split: Split, hparams: Mapping[str, Any], side: SideInputs) -> Scorer:
    """Score = x_u B with B = argmin ||X - XB||^2 + lambda ||B||^2 under diag(B) = 0.

    X is the binary user-item matrix of the train part, ``reg_weight`` lambda. B is not stored with the run
    (n_items^2 numbers): it follows from the split and lambda within seconds.
    """
    weight = float(hparams["reg_weight"])
    matrix = interaction_matrix(split.train, split.dataset.n_items)
    gram = np.asarray((matrix.T @ matrix).todense(), np.float32)
    weights = closed_form(gram, weight)
    return linear_scorer(weights, {"reg_weight": torch.tensor(weight)}, weights.size)


def closed_form(gram: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """B_ij = -P_ij / P_jj off the diagonal, 0 on it, with P = (G + lambda I)^-1 (Steck, eq. 8).

    Parameters
    ----------
    gram : float32 [n, n]
        X^T X; overwritten.
    weight : float
        lambda > 0, which makes the matrix positive definite.
    """
    from scipy.linalg import lapack

    gram[np.diag_indices_from(gram)] += weight
    # Cholesky in place: half the work and a third of the memory of a general inverse.
    # The transpose of a symmetric matrix is itself, in the order that LAPACK wants.
    factor, failed = lapack.spotrf(gram.T, lower=1, overwrite_a=1)
    inverse, singular = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise FloatingPointError(f"EASE: the Gram matrix is singular in float32; raise reg_weight ({weight})")
    inverse = np.tril(inverse)
    inverse += np.tril(inverse, -1).T
    diagonal = np.diag(inverse).copy()
    inverse /= -diagonal[None, :]
    np.fill_diagonal(inverse, 0.0)
    result: NDArray[np.float32] = inverse
    return result
