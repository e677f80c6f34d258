"""The studies of data scale: checks that only the train part shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from analysis.studies.known import NOT_RUN, Outcome
from analysis.studies.page import StudyPage

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun


def same_targets(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Every part evaluates the same users on the same items."""
    found: dict[str, list[frozenset[tuple[str, str]]]] = {}
    for part in run.parts:
        for dataset, panel in part.results.panels.items():
            pairs = zip(panel.targets["user"].astype(str), panel.targets["item"].astype(str), strict=True)
            found.setdefault(dataset, []).append(frozenset(pairs))
    compared = {dataset: own for dataset, own in found.items() if len(own) > 1}
    if not compared:
        return NOT_RUN
    equal = sum(len(set(own)) == 1 for own in compared.values())
    users = ", ".join(f"{len(own[0]):,} on {dataset}" for dataset, own in compared.items())
    return Outcome(equal == len(compared), f"{users}, in {len(run.parts)} parts")


def more_data(run: StudyRun, of: Sequence[str]) -> Outcome:
    """The named variants train on more interactions at a larger place of the axis."""
    found: dict[str, dict[float, set[int]]] = {}
    for part in run.parts:
        for (dataset, backbone, variant), x in ((m, part.x) for m in part.results.methods()):
            for cell in part.results.cells(dataset, backbone, variant).values():
                if variant in of and isinstance(x, int | float):
                    counts = part.results.manifests[cell]["counts"]
                    found.setdefault(dataset, {}).setdefault(x, set()).add(counts["train_interactions"])
    lines = {dataset: [own[x] for x in sorted(own)] for dataset, own in found.items() if len(own) > 1}
    if not lines:
        return NOT_RUN
    holds = all(
        all(len(seen) == 1 for seen in own) and all(max(a) < min(b) for a, b in pairwise(own))
        for own in lines.values()
    )
    said = "; ".join(
        f"{dataset}: {', '.join(f'{n:,}' for seen in own for n in sorted(seen))}"
        for dataset, own in lines.items()
    )
    return Outcome(holds, f"train interactions by share: {said}")


PAGE = StudyPage(known={"same-targets": same_targets, "more-data": more_data})
