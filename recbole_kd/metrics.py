"""Ranking metrics per user, derived from the rank of the target (numpy only).

A rank is 1 for the best item. Ties are given their average rank, so that a rank may end in .5;
the rules for such ranks are stated once, here:

* a target is *hit* at ``k`` iff ``rank <= k`` (10.5 is no hit at 10: half of its tie group lies
  outside of the list);
* the discount of NDCG is ``1 / log2(1 + rank)`` and that of MRR is ``1 / rank``, taken at the
  fractional rank.

With one relevant item per row the ideal DCG is 1 and Recall equals the hit rate. ``inf`` stands
for a target that was never ranked and scores 0.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recbole_kd.errors import SpecError

FloatArray = NDArray[np.float64]


def _ndcg(rank: FloatArray) -> FloatArray:
    return np.asarray(1.0 / np.log2(1.0 + rank), dtype=np.float64)


def _reciprocal(rank: FloatArray) -> FloatArray:
    return np.asarray(1.0 / rank, dtype=np.float64)


def _hit(rank: FloatArray) -> FloatArray:
    return np.isfinite(rank).astype(np.float64)


# Gain of a target at a rank inside the list; the cut at k is applied by per_user.
_GAINS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "ndcg": _ndcg,
    "mrr": _reciprocal,
    "recall": _hit,
    "hr": _hit,
    "hit": _hit,
}
_NAMES = {"ndcg": "NDCG", "mrr": "MRR", "recall": "Recall", "hr": "HR", "hit": "HR"}
_PATTERN = re.compile(r"\s*([A-Za-z]+)\s*(?:@\s*([0-9]+))?\s*")


def parse_metric(metric: str) -> tuple[str, int | None]:
    """Split ``"NDCG@10"`` into its standard name and cut-off.

    Parameters
    ----------
    metric : str
        ``NDCG``, ``Recall``, ``HR`` (RecBole's ``Hit`` is accepted) with ``@k``; ``MRR`` with or
        without. Upper and lower case are the same.

    Returns
    -------
    tuple of str and int or None
        Standard name and ``k``; None means no cut-off.

    Raises
    ------
    SpecError
        The name is unknown, ``k`` is 0, or a metric that needs ``@k`` has none.
    """
    match = _PATTERN.fullmatch(metric)
    name = match.group(1).lower() if match else metric.split("@")[0].strip().lower()
    if match is None or name not in _GAINS:
        close = difflib.get_close_matches(name, list(_GAINS), n=1)
        hint = f", did you mean '{_NAMES[close[0]]}'?" if close else ""
        raise SpecError(f"metric '{metric}': expected NDCG@k, Recall@k, HR@k, MRR or MRR@k{hint}")
    k = int(match.group(2)) if match.group(2) else None
    if k == 0 or (k is None and name != "mrr"):
        raise SpecError(f"metric '{metric}': needs a cut-off of at least 1, such as {_NAMES[name]}@10")
    return _NAMES[name], k


def standard_name(metric: str) -> str:
    """Return the standard spelling, such as ``NDCG@10`` for ``ndcg@10``."""
    name, k = parse_metric(metric)
    return name if k is None else f"{name}@{k}"


def per_user(rank: ArrayLike, metric: str) -> FloatArray:
    """Value of a metric for every row of ranks.

    Parameters
    ----------
    rank : array_like of float, any shape [...]
        Average-tie ranks, at least 1; ``inf`` for a target that was not ranked.
    metric : str
        See `parse_metric`.

    Returns
    -------
    float64 array of the same shape, each in [0, 1].

    Raises
    ------
    SpecError
        The metric is unknown.
    ValueError
        A rank is NaN or below 1.

    Examples
    --------
    >>> per_user([1, 3, 10.5], "NDCG@10").tolist()
    [1.0, 0.5, 0.0]
    """
    name, k = parse_metric(metric)
    ranks = np.asarray(rank, dtype=np.float64)
    if ranks.size and not np.all(ranks >= 1):
        raise ValueError(f"{metric}: ranks must be numbers of at least 1")
    values = _GAINS[name.lower()](ranks)
    return values if k is None else np.where(ranks <= k, values, 0.0)
