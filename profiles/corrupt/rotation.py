"""Every vector is turned towards the vector of another user."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from profiles.corrupt.base import Corruption
from profiles.placebo import shuffled
from profiles.spec import CorruptionSpec
from recbole_kd.data.profile_table import ProfileRows


def rotate(rows: ProfileRows, spec: CorruptionSpec) -> ProfileRows:
    """Turn by a share ``rate`` of the angle to another user's vector; 1 ends in its direction.

    Spherical interpolation (Shoemake, 1985); lengths are kept.
    """
    own = rows.vector.astype(np.float64)
    other = shuffled(rows, spec.seed).vector.astype(np.float64)
    length = np.linalg.norm(own, axis=1, keepdims=True)
    a = own / np.where(length == 0, 1, length)
    b = other / np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip((a * b).sum(1, keepdims=True), -1, 1))
    # The part of b that is orthogonal to a spans, with a, the plane of the rotation.
    side = b - np.cos(angle) * a
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12)
    turned = np.cos(spec.rate * angle) * a + np.sin(spec.rate * angle) * side
    return replace(rows, vector=(turned * length).astype(np.float32))


CORRUPTION = Corruption("embedding", rows=rotate)
