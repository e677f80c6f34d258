"""The object that every test returns and every table, figure and page renders."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TestResult:
    """Outcome of one test.

    Attributes
    ----------
    test : str
        Name of the test with its variant, such as ``"Wilcoxon signed-rank (Pratt)"``.
    unit : str
        Unit of analysis over which the inference generalises: ``"users"``, ``"seeds"``,
        ``"users x seeds"`` or ``"datasets"``.
    estimate : float
        Mean paired difference (or what ``test`` says), in units of the metric.
    n : int
        Number of units (users, where users and seeds are both units).
    n_seeds : int
        Seeds that entered; 1 says that nothing is known about training randomness.
    low, high : float
        Limits of the interval; NaN if the test has none.
    confidence : float
        Level of the interval.
    interval_method : str
    statistic, p : float
        NaN where a test has none.
    p_corrected : float
        After ``correction`` over ``family``; NaN before.
    correction, family : str
        Which correction, over which declared set of comparisons.
    effect_size : float
    effect_name : str
    notes : tuple of str
        What a reader must know (zeros dropped, one seed only, ...).
    """

    __test__ = False  # pytest must not collect a class that is named Test...

    test: str
    unit: str
    estimate: float
    n: int
    n_seeds: int = 1
    low: float = math.nan
    high: float = math.nan
    confidence: float = 0.95
    interval_method: str = ""
    statistic: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan
    correction: str = ""
    family: str = ""
    effect_size: float = math.nan
    effect_name: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Flat mapping, notes joined by ``"; "``."""
        return asdict(self) | {"notes": "; ".join(self.notes)}
