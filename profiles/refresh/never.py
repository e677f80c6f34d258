"""Written once, at the beginning; newcomers when they first appear."""

from __future__ import annotations

from profiles.refresh.timeline import Timeline
from profiles.spec import RefreshSpec


def policy(timeline: Timeline, spec: RefreshSpec) -> dict[str, list[int]]:
    """Write every profile once."""
    return {h.user: [max(timeline.start(h), 1)] for h in timeline.histories if h.last}
