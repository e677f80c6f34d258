"""Written anew after every n interactions."""

from __future__ import annotations

from profiles.refresh.timeline import Timeline
from profiles.spec import RefreshSpec
from recbole_kd.errors import SpecError


def policy(timeline: Timeline, spec: RefreshSpec) -> dict[str, list[int]]:
    """Write at the beginning (newcomers: at their first interaction) and whenever n more have come.

    Raises
    ------
    SpecError
        ``n`` is missing.
    """
    if not spec.n:
        raise SpecError("refresh: policy every-n needs 'n', the number of new interactions")
    return {h.user: list(range(max(timeline.start(h), 1), h.last + 1, spec.n)) for h in timeline.histories}
