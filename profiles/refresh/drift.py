"""Written anew when the history has moved away from the one that the profile describes."""

from __future__ import annotations

import numpy as np

from profiles.refresh.timeline import Timeline
from profiles.spec import RefreshSpec
from recbole_kd.errors import SpecError


def policy(timeline: Timeline, spec: RefreshSpec) -> dict[str, list[int]]:
    """Write when the cosine distance between the mean item vectors, then and now, exceeds ``threshold``.

    Raises
    ------
    SpecError
        ``threshold`` or the item vectors are missing.
    """
    if spec.threshold is None or timeline.item_vectors is None:
        raise SpecError("refresh: policy drift needs 'threshold' and item vectors")
    writings: dict[str, list[int]] = {}
    for history in timeline.histories:
        vectors = np.stack([timeline.item_vectors[item] for item in history.items]).astype(np.float64)
        means = np.cumsum(vectors, axis=0)  # direction of the mean; its length plays no part
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        lengths = [max(timeline.start(history), 1)]
        for length in range(lengths[0] + 1, history.last + 1):
            if 1 - means[length - 1] @ means[lengths[-1] - 1] > spec.threshold:
                lengths.append(length)
        writings[history.user] = lengths
    return writings
