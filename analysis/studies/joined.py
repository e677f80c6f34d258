"""All parts of a study as one experiment, for what shows every method once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.comparison import Comparison
from analysis.load import Results
from analysis.panel import Panel
from analysis.studies.run import show_x

if TYPE_CHECKING:
    from analysis.studies.run import StudyPart, StudyRun


def heading(run: StudyRun, part: StudyPart, dataset: str) -> str:
    """The dataset, with the place of the part behind it where several parts have that dataset."""
    own = [p for p in run.parts if dataset in set(p.results.runs["dataset"])]
    return dataset if len(own) < 2 else f"{dataset} ({show_x(part.x) or part.results.experiment})"


def joined(run: StudyRun) -> tuple[Results, list[Comparison]]:
    """Results of every part under the headings of their datasets, and each comparison of the study once."""
    own = {id(g.comparison): g for g in run.gains}.values()
    comparisons = [replace(g.comparison, dataset=heading(run, g.part, g.comparison.dataset)) for g in own]
    first = run.parts[0].results
    if len(run.parts) == 1:
        return first, comparisons
    runs: list[pd.DataFrame] = []
    panels: dict[str, Panel] = {}
    manifests: dict[str, dict[str, Any]] = {}
    for part in run.parts:
        names = {d: heading(run, part, d) for d in dict.fromkeys(part.results.runs["dataset"])}
        runs.append(part.results.runs.assign(dataset=part.results.runs["dataset"].map(names)))
        panels |= {names[d]: panel for d, panel in part.results.panels.items()}
        manifests |= part.results.manifests
    table = pd.concat(runs, ignore_index=True)
    whole = replace(first, experiment=run.name, runs=table, panels=panels, manifests=manifests)
    return replace(whole, problems=tuple(run.problems)), comparisons
