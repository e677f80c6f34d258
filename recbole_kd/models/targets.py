"""Fixed transformations of the teacher's vectors, fitted on the users that have a profile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_kd.models.names import find

Transform = Callable[[Tensor, Tensor, float], Tensor]
_FLAT = 1e-6


def raw(vectors: Tensor, known: Tensor, shrinkage: float) -> Tensor:
    """The encoder's vectors as they are."""
    return vectors


def standardised(vectors: Tensor, known: Tensor, shrinkage: float) -> Tensor:
    """Zero mean and unit variance per dimension; a constant dimension becomes 0, not noise blown up."""
    sd = known.std(0, correction=0)
    return (vectors - known.mean(0)) / torch.where(sd > _FLAT, sd, torch.inf)


def unit(vectors: Tensor, known: Tensor, shrinkage: float) -> Tensor:
    """Euclidean norm 1; a zero vector stays zero."""
    return nn.functional.normalize(vectors, dim=1)


def _eigen(known: Tensor, shrinkage: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvectors [D, D] and inverse roots of the shrunk eigenvalues [D], largest first."""
    known = known.double()
    mean = known.mean(0)
    centred = known - mean
    values, axes = torch.linalg.eigh(centred.t() @ centred / max(len(known), 1))
    values, axes = values.flip(0).clamp_min(0), axes.flip(1)
    # eigh leaves the sign of an axis open: the largest entry of each is made positive.
    peak = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(peak < 0, -1.0, 1.0)
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    flat = shrunk <= _FLAT**2 + 1e-10 * shrunk.max()
    return mean, axes, torch.where(flat, 0.0, shrunk.clamp_min(1e-300).rsqrt())


def whitened_pca(vectors: Tensor, known: Tensor, shrinkage: float) -> Tensor:
    """z' = L_s^(-1/2) V' (z - m): decorrelated, in the order of the principal axes.

    V L V' is the covariance of the known vectors and L_s = (1 - s) L + s tr(L) / D I its eigenvalues shrunk
    towards their mean (the form of Ledoit and Wolf, 2004, with s given). s = 0 makes the covariance the
    identity, and gives the last axes, which are mostly noise, the weight of the first; s > 0 holds them
    down. An axis without variance becomes 0.
    """
    mean, axes, scale = _eigen(known, shrinkage)
    return ((vectors.double() - mean) @ axes * scale).to(vectors.dtype)


def whitened_zca(vectors: Tensor, known: Tensor, shrinkage: float) -> Tensor:
    """z' = V L_s^(-1/2) V' (z - m): whitened as by PCA and turned back.

    Of all whitenings the nearest to the vectors themselves (Bell and Sejnowski, 1997; Kessy et al., 2018).
    """
    mean, axes, scale = _eigen(known, shrinkage)
    return ((vectors.double() - mean) @ (axes * scale) @ axes.t()).to(vectors.dtype)


TARGETS: dict[str, Transform] = {
    "raw": raw,
    "standardised": standardised,
    "unit": unit,
    "whitened-pca": whitened_pca,
    "whitened-zca": whitened_zca,
}
"""name -> (vectors [N, D], vectors of the users that have one [n, D], shrinkage) -> [N, D]."""


def prepare_target(vectors: Tensor, mask: Tensor, how: str, shrinkage: float = 0.0) -> Tensor:
    """Transform the teacher's vectors; what is estimated is estimated on those that exist.

    Parameters
    ----------
    vectors : float [..., D]
    mask : bool [...]
        False where there is no profile.
    how : str
        Key of :data:`TARGETS`.
    shrinkage : float
        Of the covariance in the whitened targets, in [0, 1].

    Returns
    -------
    float [..., D], 0 where there is no profile

    Raises
    ------
    SpecError
        No target of that name.
    """
    transform = find(TARGETS, how, "distill.target")
    if not bool(mask.any()):
        return torch.zeros_like(vectors)
    flat = transform(vectors.flatten(0, -2), vectors[mask], shrinkage)
    return torch.where(mask[..., None], flat.view_as(vectors), 0.0)
