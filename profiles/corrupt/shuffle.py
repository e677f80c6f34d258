"""A share of the users gets the profile of somebody else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from profiles.corrupt.base import Corruption, Dice
from profiles.placebo import shuffled
from profiles.spec import CorruptionSpec
from recbole_kd.data.profile_table import ProfileRows


def shuffle(rows: ProfileRows, spec: CorruptionSpec) -> ProfileRows:
    """Exchange whole profiles of a share ``rate`` of the users; at 1 this is the placebo ``shuffled``.

    Whose profile a user gets does not depend on the rate, and ``source_user``, ``history_last`` and
    ``history_hash`` travel with the vector, as in the placebo.
    """
    other = shuffled(rows, spec.seed)
    dice = Dice(f"shuffle:{spec.seed}")
    hit = np.array([dice.hits(user, spec.rate) for user in rows.user])
    return replace(
        rows,
        source_user=np.where(hit, other.source_user, rows.source_user),
        history_last=np.where(hit, other.history_last, rows.history_last),
        history_hash=np.where(hit, other.history_hash, rows.history_hash),
        vector=np.where(hit[:, None], other.vector, rows.vector),
    )


CORRUPTION = Corruption("embedding", rows=shuffle)
