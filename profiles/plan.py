"""What a job will cost before it is begun: calls, tokens, money, time, here and at scale."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profiles.history import UserHistory
from profiles.prices import PriceTable, load_prices
from profiles.store import Store
from profiles.strategies import STRATEGIES
from profiles.write import Author

SAMPLE = 400
SCALES = (1_000_000, 100_000_000, 1_000_000_000)


@dataclass(frozen=True)
class Plan:
    """Cost of a job; tokens are counted on a sample of users and scaled up.

    Attributes
    ----------
    users, counted : int
        Users of the job, and those whose prompts were rendered and counted.
    stored : int
        Users (scaled) whose profiles the store already has in full.
    calls : int
        Calls that are still to be made.
    prompt_tokens : int
        Tokens of these calls. Later rounds of agg_after and agg_with are counted with stand-in
        texts of the longest answer allowed.
    completion_tokens : int
        Upper bound: every answer as long as allowed.
    likely_completion_tokens : int
        By the mean answer in the store, else the upper bound.
    usd, likely_usd, batch_usd : float or None
        Upper bound, likely, and upper bound by the batch route; None without a price.
    seconds : float or None
        By the rate measured in the store (wall time per call); None without one.
    exact : bool
        Whether tokens were counted by a tokenizer rather than by characters.
    """

    users: int
    counted: int
    stored: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    likely_completion_tokens: int
    usd: float | None
    likely_usd: float | None
    batch_usd: float | None
    seconds: float | None
    exact: bool
    prices_dated: str

    def scaled(self, users: int) -> dict[str, Any]:
        """Extrapolate a job without a store to ``users`` users like these."""
        factor = users / max(self.users - self.stored, 1)
        return {
            "users": users,
            "calls": self.calls * factor,
            "prompt_tokens": self.prompt_tokens * factor,
            "completion_tokens": self.likely_completion_tokens * factor,
            "usd": None if self.likely_usd is None else self.likely_usd * factor,
            "batch_usd": None if self.batch_usd is None else self.batch_usd * factor,
            "seconds": None if self.seconds is None else self.seconds * factor,
        }


@dataclass
class _Count:
    users: int = 0
    stored: int = 0
    calls: int = 0
    prompt_tokens: int = 0


def plan_profiles(
    author: Author,
    histories: Sequence[UserHistory],
    store: Store,
    prices: PriceTable | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Plan:
    """Count what writing ``histories`` would take, asking no model.

    Parameters
    ----------
    sample : int
        At most so many users, drawn with ``seed``, are rendered and counted.
    """
    drawn = list(histories)
    if len(drawn) > sample:
        drawn = random.Random(seed).sample(drawn, sample)
    count = _count(author, drawn, store)
    factor = len(histories) / max(len(drawn), 1)
    calls, prompts = round(count.calls * factor), round(count.prompt_tokens * factor)
    most = calls * author.spec.decoding.max_new_tokens if author.prompt.needs_llm else 0
    mean, pace = _measured(author, store)
    likely = min(most, round(calls * mean)) if mean is not None else most
    table = prices or load_prices()
    price = table.find(author.backend.model)
    return Plan(
        users=len(histories),
        counted=len(drawn),
        stored=round(count.stored * factor),
        calls=calls,
        prompt_tokens=prompts,
        completion_tokens=most,
        likely_completion_tokens=likely,
        usd=None if price is None else price.cost(prompts, most),
        likely_usd=None if price is None else price.cost(prompts, likely),
        batch_usd=None if price is None else price.cost(prompts, most, batch=True),
        seconds=None if pace is None else calls * pace,
        exact=bool(getattr(author.backend, "counts_exactly", True)),
        prices_dated=table.dated,
    )


def _count(author: Author, histories: Sequence[UserHistory], store: Store) -> _Count:
    """Walk through the conversations with stand-in answers where the store has none."""
    if not author.prompt.needs_llm:
        return _Count(users=len(histories), stored=len(histories))
    strategy = STRATEGIES[author.spec.history.strategy]
    stand_in = "taste " * author.spec.decoding.max_new_tokens
    total = _Count(users=len(histories))
    seen: set[str] = set()
    for history in histories:
        turns = strategy(author.job(history))
        messages, whole = next(turns), True
        while True:
            found = store.calls(author.writer, (m.digest for m in messages))
            open_ = [m for m in messages if m.digest not in found]
            whole &= not open_
            fresh = [m for m in open_ if m.digest not in seen]
            seen |= {m.digest for m in fresh}
            total.calls += len(fresh)
            total.prompt_tokens += sum(author.backend.count_prompt_tokens(fresh)) if fresh else 0
            try:
                answers = [
                    found[m.digest].text if m.digest in found else f"{m.digest} {stand_in}" for m in messages
                ]
                messages = turns.send(answers)
            except StopIteration:
                break
        total.stored += whole
    return total


def _measured(author: Author, store: Store) -> tuple[float | None, float | None]:
    """Mean answer tokens and seconds per call of this writer, from the store."""
    calls, completion, seconds = store.measured(author.writer)
    if not calls:
        return None, None
    if author.spec.api is not None:
        # Concurrent calls overlap.
        seconds /= author.spec.api.concurrency
    return completion / calls, (seconds / calls) or None
