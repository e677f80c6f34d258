"""Gaussian noise on the vectors of a share of the users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from profiles.corrupt.base import Corruption, Dice
from profiles.spec import CorruptionSpec
from recbole_kd.data.profile_table import ProfileRows
from recbole_kd.errors import SpecError


def add_noise(rows: ProfileRows, spec: CorruptionSpec) -> ProfileRows:
    """Add white noise to the vectors of a share ``rate`` of the users.

    ``strength`` is the ratio of signal to noise power; the signal is the variance of the vectors
    around their mean, since what all users share tells none of them apart.

    Raises
    ------
    SpecError
        ``strength`` is missing or not positive.
    """
    if not spec.strength or spec.strength <= 0:
        raise SpecError("corruption noise: 'strength' (signal-to-noise ratio of powers, > 0) is missing")
    vectors = rows.vector.astype(np.float64)
    power = ((vectors - vectors.mean(0)) ** 2).mean()
    dice = Dice(f"noise:{spec.seed}")
    hit = np.array([dice.hits(user, spec.rate) for user in rows.user])
    # Drawn for all rows, so that a row's noise does not depend on the rate.
    noise = np.random.default_rng(spec.seed).standard_normal(vectors.shape) * np.sqrt(power / spec.strength)
    return replace(rows, vector=np.where(hit[:, None], vectors + noise, vectors).astype(np.float32))


CORRUPTION = Corruption("embedding", rows=add_noise)
