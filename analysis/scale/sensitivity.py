"""Which assumption moves the break-even: one at a time over its declared range."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.scale.assumptions import Assumptions
from analysis.scale.model import break_even


@dataclass(frozen=True)
class Moved:
    """Break-even at both ends of one assumption's range, all others as they stand.

    Attributes
    ----------
    name : str
    low, high : float
        Ends of the range.
    at_low, at_high : float
        Break-even there, in requests per user and day.
    """

    name: str
    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def spread(self) -> float:
        """Distance of the two."""
        return abs(self.at_high - self.at_low)


def one_at_a_time(found: Assumptions, users: float, writer: str, loop: str) -> list[Moved]:
    """Every assumption with a range, what moves most first."""
    values = found.values()
    moved = []
    for name, line in found.lines.items():
        if line.range is None:
            continue
        ends = [break_even(values | {name: end}, users, writer, loop) for end in line.range]
        moved.append(Moved(name, *line.range, *ends))
    return sorted(moved, key=lambda m: -m.spread)
