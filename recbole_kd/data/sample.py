"""Less to learn from: a share of the train users, or of everybody's train interactions.

Only the train part shrinks. Who is validated and tested, on which item and after which history, stays as it
is, so that models of different shares are compared on the same targets. Profiles are written from the train
part that is left, and the leakage guard compares them with that part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_kd.data.spec import SampleSpec
from recbole_kd.data.types import IntArray, Sequences
from recbole_kd.errors import DataError


@dataclass(frozen=True)
class Sampled:
    """What is left of a train part.

    Attributes
    ----------
    train : Sequences
    begins : int64 [len(train)]
        Items of each row that were left out before its first one.
    counts : dict
        ``sample_users_left_out``, ``sample_interactions_left_out``.
    """

    train: Sequences
    begins: IntArray
    counts: dict[str, int]


def sample_train(train: Sequences, spec: SampleSpec) -> Sampled:
    """Keep a share of the users, then of every user's interactions the latest ones.

    Users are drawn by the sample's own seed; a larger share of the same seed holds a smaller one. Of n
    interactions ceil(share x n) are kept, the latest: a history stays without gaps and as recent as it was.

    Raises
    ------
    DataError
        Nobody is left.
    """
    rows = np.arange(len(train))
    if spec.users is not None:
        order = np.random.default_rng(spec.seed).permutation(len(train))
        rows = np.sort(order[: round(spec.users * len(train))])
    if not len(rows):
        raise DataError(f"split.sample.users = {spec.users:g} leaves none of {len(train)} train users")
    lengths = train.lengths[rows]
    # The small slack keeps 0.7 * 10 = 7.000000000000001 from becoming 8.
    share = 1.0 if spec.interactions is None else spec.interactions
    kept = np.ceil(share * lengths - 1e-9).astype(np.int64)
    begins = lengths - kept
    offsets = np.r_[0, np.cumsum(kept)].astype(np.int64)
    start = np.repeat(train.offsets[rows] + begins - offsets[:-1], kept)
    items = train.items[start + np.arange(offsets[-1])]
    counts = {
        "sample_users_left_out": len(train) - len(rows),
        "sample_interactions_left_out": len(train.items) - len(items),
    }
    return Sampled(Sequences(train.users[rows], offsets, items), begins, counts)
