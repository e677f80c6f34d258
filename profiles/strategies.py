"""Histories longer than one call: which items are shown, and how parts become one profile.

A strategy is a generator: it yields rounds of messages, receives their texts, and returns the
profiles. Rounds of all users run together, so that batches stay full.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from profiles.history import UserHistory
from profiles.prompts.kind import Message, Prompt
from profiles.registry import Registry
from profiles.spec import HistorySpec
from recbole_kd.errors import SpecError

Conversation = Generator[list[Message], list[str], list[str]]


@dataclass(frozen=True)
class Job:
    """One user's profile to write.

    Attributes
    ----------
    history : UserHistory
    prompt : Prompt
    spec : HistorySpec
    context : callable
        ``context(items) -> dict``: what the prompt may use, showing the given item positions.
    count : callable
        Prompt tokens of messages.
    """

    history: UserHistory
    prompt: Prompt
    spec: HistorySpec
    context: Callable[[list[int]], dict[str, Any]]
    count: Callable[[list[Message]], list[int]]

    def ask(self, positions: list[int], part: str = "user", **extra: Any) -> list[Message]:
        """Messages that show the items at ``positions``."""
        return self.prompt.messages(self.context(positions) | extra, part)

    def fits(self, positions: list[int], part: str = "user", **extra: Any) -> bool:
        """Whether these items go into one call."""
        if self.spec.max_items is not None and len(positions) > self.spec.max_items:
            return False
        if self.spec.max_tokens is None:
            return True
        return max(self.count(self.ask(positions, part, **extra))) <= self.spec.max_tokens

    def longest(
        self, candidates: list[int], part: str = "user", *, from_end: bool, **extra: Any
    ) -> list[int]:
        """Most items of ``candidates`` that fit, taken from one end (bisection)."""
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high + 1) // 2
            chosen = candidates[-middle:] if from_end else candidates[:middle]
            low, high = (middle, high) if self.fits(chosen, part, **extra) else (low, middle - 1)
        if low == 0:
            raise SpecError(
                f"writer.history: not even one item of user '{self.history.user}' fits into max_tokens "
                f"{self.spec.max_tokens}; raise it"
            )
        return candidates[-low:] if from_end else candidates[:low]

    def chunks(self, part: str = "user", **extra: Any) -> list[list[int]]:
        """Cut the whole history into consecutive parts that fit."""
        rest = list(range(self.history.last))
        parts = []
        while rest:
            part_items = self.longest(rest, part, from_end=False, **extra)
            parts.append(part_items)
            rest = rest[len(part_items) :]
        return parts


def recent(job: Job) -> Conversation:
    """Show the latest items that fit."""
    return (yield job.ask(job.longest(list(range(job.history.last)), from_end=True)))


def sampled(job: Job) -> Conversation:
    """Show a seeded sample of items that fits, in time order.

    The draw depends on the user and the seed only, so a longer budget shows a superset.
    """
    order = list(range(job.history.last))
    random.Random(f"{job.spec.seed}:{job.history.user}").shuffle(order)
    low, high = 1, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if job.fits(sorted(order[:middle])) else (low, middle - 1)
    return (yield job.ask(sorted(order[:low])))


def agg_after(job: Job) -> Conversation:
    """Profile consecutive parts independently, then merge them.

    Severin et al. (ECIR 2026) halve the history until it fits; here parts are as long as fits,
    which needs fewer calls. Profiles of parts that do not fit into one merge are merged in groups.
    """
    parts = job.chunks()
    if len(parts) == 1:
        return (yield job.ask(parts[0]))
    _need(job, "merge")
    written = []
    for part in parts:
        written.append((yield job.ask(part)))
    while len(written) > 1:
        merged = []
        for group in _merge_groups(job, written):
            if len(group) == 1:
                merged += group
                continue
            own = [{"profiles": [texts[k] for texts in group]} for k in range(job.prompt.profiles_per_user)]
            merged.append((yield _per_profile(job, "merge", own)))
        written = merged
    return written[0]


def agg_with(job: Job) -> Conversation:
    """Profile the first part, then update the profile part by part.

    What fits next to the profile so far is found out anew for every part.
    """
    rest = list(range(job.history.last))
    part = job.longest(rest, from_end=False)
    texts = yield job.ask(part)
    rest = rest[len(part) :]
    if rest:
        _need(job, "update")
    while rest:
        part = job.longest(rest, "update", from_end=False, profile=max(texts, key=len))
        texts = yield _per_profile(job, "update", [{"profile": text} for text in texts], part)
        rest = rest[len(part) :]
    return texts


def _merge_groups(job: Job, written: list[list[str]]) -> list[list[list[str]]]:
    """Consecutive profiles that fit into one merge; at least two together, so that it ends."""
    groups: list[list[list[str]]] = []
    for texts in written:
        last = groups[-1] if groups else []
        longest = [max(t, key=len) for t in [*last, texts]]
        fits = job.spec.max_tokens is None or (
            max(job.count(job.ask([job.history.last - 1], "merge", profiles=longest))) <= job.spec.max_tokens
        )
        if last and (fits or len(last) < 2):
            last.append(texts)
        else:
            groups.append([texts])
    return groups


def _per_profile(
    job: Job, part: str, extra: Sequence[dict[str, Any]], positions: list[int] | None = None
) -> list[Message]:
    shown = [job.history.last - 1] if positions is None else positions
    return [job.ask(shown, part, **own)[k] for k, own in enumerate(extra)]


def _need(job: Job, part: str) -> None:
    if not job.prompt.supports(part):
        raise SpecError(
            f"prompt {job.prompt.name} has no '{part}' text, which strategy {job.spec.strategy} needs for a "
            f"history of {job.history.last} items; use another prompt, or strategy recent"
        )


STRATEGIES: Registry[Callable[[Job], Conversation]] = Registry(
    "history strategy",
    {name: f"profiles.strategies:{name}" for name in ("recent", "sampled", "agg_after", "agg_with")},
)
