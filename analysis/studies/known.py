"""Known cases: what must come out whatever the data say, checked on every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.studies.sentences import numbers

if TYPE_CHECKING:
    from analysis.load import Results
    from analysis.studies.run import StudyRun


@dataclass(frozen=True)
class Outcome:
    """Whether a known case came out; None: what it needs has not been run."""

    holds: bool | None
    found: str


Check = Callable[["StudyRun", Sequence[str]], Outcome]
NOT_RUN = Outcome(None, "not run")


def _pairs(run: StudyRun, of: Sequence[str]) -> Iterator[tuple[Results, str, str]]:
    """Runs of two variants on the same dataset, backbone and seed, of every part."""
    for part in run.parts:
        results = part.results
        for dataset, backbone, variant in results.methods():
            if variant != of[0]:
                continue
            mine = results.cells(dataset, backbone, variant)
            other = results.cells(dataset, backbone, of[1])
            yield from ((results, mine[seed], other[seed]) for seed in mine if seed in other)


def same_profiles(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Both variants were taught from equal vectors of equal sources (digest of the embedding file's rows)."""
    pairs = list(_pairs(run, of))
    digests = [[str(r.manifests[cell].get("profile_digest")) for cell in (a, b)] for r, a, b in pairs]
    if not digests or any("None" in pair for pair in digests):
        return NOT_RUN
    equal = sum(a == b for a, b in digests)
    return Outcome(equal == len(digests), f"equal profile digests in {equal} of {len(digests)} pairs of runs")


def same_ranks(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Both variants give every test target the same rank."""
    pairs = list(_pairs(run, of))
    if not pairs:
        return NOT_RUN
    equal = 0
    for results, a, b in pairs:
        panel = next(p for p in results.panels.values() if a in p.cells and b in p.cells)
        ranks = panel.rank[[panel.cells.index(a), panel.cells.index(b)]]
        equal += bool(np.array_equal(ranks[0], ranks[1], equal_nan=True))
    found = f"equal ranks of all targets in {equal} of {len(pairs)} pairs of runs"
    return Outcome(equal == len(pairs), found)


def shown(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Every comparison of the named series or variants is above zero with corrected p below .05."""
    mine = [g for g in run.gains if g.result and (g.series in of or g.comparison.variant in of)]
    if not mine:
        return NOT_RUN
    good = [g for g in mine if g.result and g.result.p_corrected < 0.05 and g.result.estimate > 0]
    weakest = max(mine, key=lambda g: g.result.p_corrected if g.result else 0.0)
    assert weakest.result is not None
    return Outcome(
        len(good) == len(mine),
        f"{len(good)} of {len(mine)} above zero; the weakest: {numbers(weakest.result, run.metric)}",
    )


CHECKS: dict[str, Check] = {"same-profiles": same_profiles, "same-ranks": same_ranks, "shown": shown}
