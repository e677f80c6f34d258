"""At checkpoints, the users with the most new interactions are written anew."""

from __future__ import annotations

import math

from profiles.refresh.timeline import Timeline
from profiles.spec import RefreshSpec
from recbole_kd.errors import SpecError


def policy(timeline: Timeline, spec: RefreshSpec) -> dict[str, list[int]]:
    """Write at the beginning; then, at ``checkpoints`` equal parts of the stream, a ``share`` of the users.

    Those with the most interactions since their last profile come first (ties by user token);
    users without new interactions are never written.

    Raises
    ------
    SpecError
        ``share`` or ``checkpoints`` is missing.
    """
    if not spec.share or not spec.checkpoints:
        raise SpecError("refresh: policy most-active needs 'share' and 'checkpoints'")
    writings = timeline.first_writings()
    length = {h.user: timeline.start(h) for h in timeline.histories}
    events = list(timeline.events())
    quota = math.ceil(spec.share * len(timeline.histories))
    done = 0
    for checkpoint in range(1, spec.checkpoints + 1):
        end = len(events) * checkpoint // spec.checkpoints
        for _, index, now in events[done:end]:
            length[timeline.histories[index].user] = now
        done = end
        fresh = {user: n - (writings[user][-1] if writings[user] else 0) for user, n in length.items()}
        ranked = sorted((user for user in fresh if fresh[user] > 0), key=lambda user: (-fresh[user], user))
        for user in ranked[:quota]:
            writings[user].append(length[user])
    return writings
