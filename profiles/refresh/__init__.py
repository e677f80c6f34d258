"""When profiles are written anew: policies over histories in time, and what they cost.

A policy is a small function ``policy(timeline, spec) -> {user: [length, ...]}``: how long each user's
history was at every writing of the profile. The first writing is the policy's to place; the helper
``Timeline.start`` says how much of the history is there at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.refresh.timeline import Timeline
from profiles.registry import Registry

if TYPE_CHECKING:
    from profiles.history import UserHistory
    from profiles.spec import RefreshSpec

Writings = dict[str, list[int]]
Policy = Callable[[Timeline, "RefreshSpec"], Writings]

POLICIES: Registry[Policy] = Registry(
    "refresh policy",
    {
        "never": "profiles.refresh.never:policy",
        "every-n": "profiles.refresh.every_n:policy",
        "most-active": "profiles.refresh.most_active:policy",
        "drift": "profiles.refresh.drift:policy",
    },
)


@dataclass(frozen=True)
class RefreshLog:
    """What a policy did.

    Attributes
    ----------
    writings : dict
        User -> history lengths at which the profile was written, ascending.
    calls : int
        Profiles written, the first ones included.
    refreshed_users : int
        Users whose profile was written more than once.
    staleness : float
        Interactions that the profile in force had not seen, mean over all interactions that came
        after the first profile.
    """

    writings: Writings
    calls: int
    refreshed_users: int
    staleness: float

    def cost(self, prompt_tokens: float, completion_tokens: float, price: Any) -> dict[str, float | None]:
        """Tokens and US dollars, given mean tokens per profile and ``price(prompt, completion)``."""
        prompt, completion = self.calls * prompt_tokens, self.calls * completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "usd": price(prompt, completion)}

    def in_force(self, histories: Sequence[UserHistory]) -> list[UserHistory]:
        """What every user's last profile saw; users who never got one are left out."""
        return [h.prefix(self.writings[h.user][-1]) for h in histories if self.writings.get(h.user)]


def run_policy(
    spec: RefreshSpec,
    histories: Sequence[UserHistory],
    start: Mapping[str, int],
    item_vectors: Mapping[str, np.ndarray] | None = None,
) -> RefreshLog:
    """Play the histories through a policy.

    Parameters
    ----------
    histories : sequence of UserHistory
        Whole train histories.
    start : mapping
        User -> interactions that are there at the beginning; missing users start with none.
    item_vectors : mapping, optional
        Item token -> vector, needed by ``drift``.
    """
    timeline = Timeline(histories, start, item_vectors)
    writings = POLICIES[spec.policy](timeline, spec)
    unseen, count = 0, 0
    for history in histories:
        lengths = writings.get(history.user, [])
        if not lengths:
            continue
        after = np.arange(lengths[0] + 1, history.last + 1)
        # The profile in force when interaction k comes was written from at most k - 1 of them.
        last_seen = np.array(lengths)[np.searchsorted(lengths, after - 1, side="right") - 1]
        unseen += int((after - last_seen).sum())
        count += len(after)
    return RefreshLog(
        writings,
        calls=sum(map(len, writings.values())),
        refreshed_users=sum(len(lengths) > 1 for lengths in writings.values()),
        staleness=unseen / count if count else 0.0,
    )


__all__ = ["POLICIES", "Policy", "RefreshLog", "Timeline", "Writings", "run_policy"]
