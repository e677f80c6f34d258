"""Limits per minute of an endpoint."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

WINDOW = 60.0


class MinuteLimit:
    """At most ``limit`` units in any 60 s, first come first served.

    Parameters
    ----------
    limit : int or None
        None is no limit.
    clock : callable
        Seconds; monotonic.
    """

    def __init__(self, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0
        self._turn = asyncio.Lock()

    async def take(self, units: int = 1) -> None:
        """Wait until ``units`` may be spent; more than the whole limit counts as the limit."""
        if self._limit is None:
            return
        units = min(units, self._limit)
        async with self._turn:
            while (pause := self._wait(units)) > 0:
                await asyncio.sleep(pause)
            self._spent.append((self._clock(), units))
            self._sum += units

    def _wait(self, units: int) -> float:
        assert self._limit is not None
        now = self._clock()
        while self._spent and self._spent[0][0] <= now - WINDOW:
            self._sum -= self._spent.popleft()[1]
        if self._sum + units <= self._limit:
            return 0.0
        free = self._sum + units - self._limit
        for moment, spent in self._spent:
            free -= spent
            if free <= 0:
                return max(moment + WINDOW - now, 0.001)
        return WINDOW
