"""Placebos: teachers that keep the machinery and lose the information about the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from profiles.registry import Registry
from recbole_kd.data.history import history_hash
from recbole_kd.data.profile_table import ProfileRows
from recbole_kd.errors import ProfileError


def shuffled(rows: ProfileRows, seed: int) -> ProfileRows:
    """Give every user all the profiles of another one: a random cycle, so nobody keeps their own.

    ``source_user``, ``history_last`` and ``history_hash`` travel with the vectors.

    Raises
    ------
    ProfileError
        There are not two users with equally many profiles.
    """
    of_user: dict[str, list[int]] = {}
    for r in np.lexsort((rows.profile, rows.user.astype(str))):
        of_user.setdefault(str(rows.user[r]), []).append(int(r))
    groups: dict[int, list[str]] = {}
    for user, own in of_user.items():
        groups.setdefault(len(own), []).append(user)
    rng = np.random.default_rng(seed)
    take = np.arange(len(rows.user))
    for users in groups.values():
        if len(users) < 2:
            raise ProfileError(f"placebo shuffled: user '{users[0]}' has no partner to change profiles with")
        order = [users[i] for i in rng.permutation(len(users))]
        for receiver, giver in zip(order, order[1:] + order[:1], strict=True):
            take[of_user[receiver]] = of_user[giver]
    return replace(
        rows,
        source_user=rows.source_user[take],
        history_last=rows.history_last[take],
        history_hash=rows.history_hash[take],
        vector=rows.vector[take],
    )


def random(rows: ProfileRows, seed: int) -> ProfileRows:
    """Independent Gaussians with the mean and standard deviation of every dimension of the base."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(rows.vector.shape)
    vector = rows.vector.mean(0) + noise * rows.vector.std(0)
    return _about_nobody(rows, vector.astype(np.float32))


def constant(rows: ProfileRows, seed: int) -> ProfileRows:
    """Return the mean vector of the base for everybody."""
    mean = rows.vector.astype(np.float64).mean(0).astype(np.float32)
    return _about_nobody(rows, np.tile(mean, (len(rows.user), 1)))


def _about_nobody(rows: ProfileRows, vector: np.ndarray) -> ProfileRows:
    n = len(rows.user)
    return replace(
        rows,
        source_user=rows.user,
        history_last=np.zeros(n, np.int64),
        history_hash=np.array([history_hash([])] * n, dtype=object),
        vector=vector,
    )


PLACEBOS: Registry[Callable[[ProfileRows, int], ProfileRows]] = Registry(
    "placebo", {name: f"profiles.placebo:{name}" for name in ("shuffled", "random", "constant")}
)
