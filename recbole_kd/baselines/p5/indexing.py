"""Names of items that a model writes: random, sequential or collaborative (Hua et al., SIGIR-AP 2023)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recbole_kd.baselines.scorer import interaction_matrix
from recbole_kd.data.types import IntArray, Split

_FIRST = 1001  # OpenP5 counts from here, so that all numbers have the same first digits
Index = Callable[[Split, int, int, int], list[str]]
"""(split, seed, clusters, size) -> name of every item id; the padding's is empty"""


def random_index(split: Split, seed: int, clusters: int, size: int) -> list[str]:
    """Numbers in random order: close numbers mean nothing."""
    order = np.random.default_rng(seed).permutation(np.arange(1, split.dataset.n_items))
    return _numbered(order, split.dataset.n_items)


def sequential_index(split: Split, seed: int, clusters: int, size: int) -> list[str]:
    """Numbers in the order of first appearance in the train histories, user after user.

    Neighbours in a history get neighbouring numbers. P5 walks through whole histories, so that a test item
    stands beside the items before it; here the order is built from the train part alone, and items that it
    lacks come last, in random order (OpenP5 appends them in the order of the held-out interactions).
    """
    n = split.dataset.n_items
    items, first = np.unique(split.train.items, return_index=True)
    known = items[np.argsort(first)]
    rest = np.setdiff1d(np.arange(1, n), known)
    return _numbered(np.concatenate([known, np.random.default_rng(seed).permutation(rest)]), n)


def collaborative_index(split: Split, seed: int, clusters: int, size: int) -> list[str]:
    """Paths in a tree of spectral clusters of the train co-occurrence, then a token within the leaf.

    The graph joins two items with the number of users that had both. A group of more than ``size`` items is
    cut into ``clusters`` by spectral clustering (cluster-QR labels); smaller groups number their items.
    Children of one node have different tokens, all from ``size`` tokens, which are reused all over the tree.
    Items without a train interaction form a group of their own (in OpenP5 they take single tokens, which also
    begin other items' names).
    """
    counted = interaction_matrix(split.train, split.dataset.n_items)
    graph = (counted.T @ counted).tolil()
    graph.setdiag(0)
    return _tree_names(split, graph.tocsr(), seed, clusters, size)


INDEXINGS: dict[str, Index] = {
    "random": random_index,
    "sequential": sequential_index,
    "collaborative": collaborative_index,
}
"""name -> function"""


def _numbered(order: IntArray, n_items: int) -> list[str]:
    names = [""] * n_items
    for place, item in enumerate(order.tolist()):
        names[item] = str(_FIRST + place)
    return names


def _tree_names(split: Split, graph: sp.csr_matrix, seed: int, clusters: int, size: int) -> list[str]:
    trained = np.flatnonzero(split.train_item_counts() > 0)
    rest = np.setdiff1d(np.arange(1, split.dataset.n_items), trained)
    names = [""] * split.dataset.n_items
    following = 0
    top = list(_cut(trained, graph, seed, clusters))
    queue: deque[IntArray] = deque()
    for group in [*top, *([rest] if len(rest) else [])]:
        following = _extend(names, group, following, size)
        queue.append(group)
    while queue:
        group = queue.popleft()
        if len(group) <= size:
            for place, item in enumerate(group.tolist()):
                names[item] += f"<CI{place}>"
            continue
        for part in _cut(group, graph, seed, clusters):
            following = _extend(names, part, following, size)
            queue.append(part)
    return names


def _extend(names: list[str], group: IntArray, following: int, size: int) -> int:
    """Give a group the next token; tokens are reused after ``size`` of them."""
    for item in group.tolist():
        names[item] += f"<CI{following % size}>"
    return following % size + 1


def _cut(group: IntArray, graph: sp.csr_matrix, seed: int, clusters: int) -> Iterator[IntArray]:
    """Clusters of a group; equal pieces where the graph has nothing to say about it."""
    inner = graph[group][:, group]
    labels = _labels(inner, seed, clusters)
    if labels is None:
        yield from np.array_split(group, clusters)
        return
    for label in np.unique(labels):
        yield group[labels == label]


def _labels(inner: sp.csr_matrix, seed: int, clusters: int) -> NDArray[np.int64] | None:
    import warnings

    from sklearn.cluster import SpectralClustering

    if inner.shape[0] <= clusters + 1 or not inner.nnz:
        return None
    made: Any = SpectralClustering(
        n_clusters=clusters, assign_labels="cluster_qr", random_state=seed, affinity="precomputed"
    )
    with warnings.catch_warnings():
        # Parts of the graph that are not connected are clusters like others here.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        labels = np.asarray(made.fit(inner.toarray()).labels_, np.int64)
    return labels if len(np.unique(labels)) > 1 else None
