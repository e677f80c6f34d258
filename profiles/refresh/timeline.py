"""Histories of all users as one stream of interactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from profiles.history import UserHistory


class Timeline:
    """Interactions of all users in order of time; ties by user and position.

    Parameters
    ----------
    histories : sequence of UserHistory
    start : mapping
        User -> interactions that are there at the beginning.
    item_vectors : mapping, optional
        Item token -> vector.
    """

    def __init__(
        self,
        histories: Sequence[UserHistory],
        start: Mapping[str, int],
        item_vectors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.histories = list(histories)
        self.item_vectors = item_vectors
        self._start = start

    def start(self, history: UserHistory) -> int:
        """Interactions that are there at the beginning, at most all."""
        return min(self._start.get(history.user, 0), history.last)

    def first_writings(self) -> dict[str, list[int]]:
        """One writing at the beginning for everybody who has an interaction by then."""
        return {h.user: [self.start(h)] if self.start(h) else [] for h in self.histories}

    def events(self) -> Iterator[tuple[float, int, int]]:
        """Yield (time, index of the history, length after the interaction), after the beginning."""
        rows = [
            (time, index, position + 1)
            for index, history in enumerate(self.histories)
            for position, time in enumerate(history.times)
            if position >= self.start(history)
        ]
        yield from sorted(rows, key=lambda row: (row[0], self.histories[row[1]].user, row[2]))
