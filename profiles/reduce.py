"""Fewer dimensions: ``reduce(vectors, spec) -> float32 [N, d]``, fitted on the vectors themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from profiles.registry import Registry
from profiles.spec import ReductionSpec
from recbole_kd.errors import SpecError

Vectors = NDArray[np.float32]

TOLD_FROM = 5000
"""Vectors from which on UMAP, which cannot say how far it is, says that it has begun."""


def reduce_vectors(vectors: Vectors, spec: ReductionSpec) -> Vectors:
    """Apply the reduction of ``spec``.

    Parameters
    ----------
    vectors : float32 [N, D]

    Returns
    -------
    float32 [N, n_components]

    Raises
    ------
    SpecError
        ``n_components`` is missing or more than the data can have.
    """
    if spec.kind == "none":
        return vectors
    n, width = vectors.shape
    most = min(n, width) if spec.kind.startswith("pca") else n - 2
    if spec.n_components is None:
        raise SpecError(f"reduction: kind {spec.kind} needs n_components")
    if spec.n_components > most:
        raise SpecError(
            f"reduction.n_components: {spec.n_components}, but {n} vectors of width {width} allow {most}"
        )
    return REDUCTIONS[spec.kind](vectors, spec)


def none(vectors: Vectors, spec: ReductionSpec) -> Vectors:
    """Return the vectors as they are."""
    return vectors


def pca(vectors: Vectors, spec: ReductionSpec) -> Vectors:
    """Principal components, by a full SVD (exact, no randomness but the sign, which is fixed)."""
    return _pca(vectors, spec, whiten=False)


def pca_whitening(vectors: Vectors, spec: ReductionSpec) -> Vectors:
    """Principal components of unit variance (Su et al., 2021, arXiv 2103.15316)."""
    return _pca(vectors, spec, whiten=True)


def _pca(vectors: Vectors, spec: ReductionSpec, whiten: bool) -> Vectors:
    from sklearn.decomposition import PCA

    model = PCA(spec.n_components, whiten=whiten, svd_solver="full", random_state=spec.seed)
    return np.asarray(model.fit_transform(vectors.astype(np.float64)), np.float32)


def umap(vectors: Vectors, spec: ReductionSpec) -> Vectors:
    """UMAP (McInnes et al., 2018, arXiv 1802.03426) with a seed, so on one thread."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise SpecError("reduction: kind umap needs umap-learn; pip install 'recbole-kd[umap]'") from error
    if len(vectors) > TOLD_FROM:
        size = f"{len(vectors):,} vectors to {spec.n_components} dimensions"
        sys.stderr.write(f"umap: {size} on one thread, so that the seed holds; this takes minutes\n")
    neighbours = min(15, len(vectors) - 1)
    model = UMAP(n_components=spec.n_components, n_neighbors=neighbours, random_state=spec.seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float32)


REDUCTIONS: Registry[Callable[[Vectors, ReductionSpec], Vectors]] = Registry(
    "reduction",
    {
        "none": "profiles.reduce:none",
        "pca": "profiles.reduce:pca",
        "pca-whitening": "profiles.reduce:pca_whitening",
        "umap": "profiles.reduce:umap",
    },
)
