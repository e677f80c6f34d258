"""How far a long loop is: the one way in which the profile code tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[int, int], None]
EVERY = 32


def tracked(
    items: Iterable[T], progress: Progress | None, total: int, done: int = 0, every: int = EVERY
) -> Iterator[T]:
    """Yield ``items`` and tell how many are finished.

    Parameters
    ----------
    items : iterable
    progress : callable, optional
        ``progress(done, total)``, called after every ``every`` items and at the end.
    total : int
    done : int
        Finished before this loop, out of ``total``.
    """
    for item in items:
        yield item
        done += 1
        if progress and done % every == 0:
            progress(done, total)
    if progress:
        progress(done, total)
