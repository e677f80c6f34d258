"""Studies: from what their experiments produced to a figure, a table, an answer and a page.

A new study is a YAML (``properties/experiment/study_<name>.yaml``), and, where the kinds of figures,
tables, answers and known cases that every study can name do not suffice, a file here that ends in a
``PAGE`` and one line in ``STUDIES``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.studies.page import StudyPage

STUDIES: dict[str, str] = {
    "cold_start": "analysis.studies.cold_start",
    "cost_at_scale": "analysis.studies.cost_at_scale",
    "data_scale": "analysis.studies.data_scale",
    "data_scale_interactions": "analysis.studies.data_scale",
    "hallucination": "analysis.studies.hallucination",
    "objectives_and_fusion": "analysis.studies.objectives_and_fusion",
    "paper": "analysis.studies.paper",
    "refresh": "analysis.studies.refresh",
    "student_size": "analysis.studies.student_size",
}
"""Study -> module with its ``PAGE``; a study that is not here uses the common kinds only."""


def page_of(name: str) -> StudyPage:
    """What a study's own file adds."""
    from analysis.studies.page import StudyPage

    if name not in STUDIES:
        return StudyPage()
    found = importlib.import_module(STUDIES[name]).PAGE
    assert isinstance(found, StudyPage)
    return found


def write_study_page(directory: str | Path, page: Path) -> list[Path]:
    """Write the page of the study whose ``study.json`` lies in ``directory`` (`analysis.studies.page`)."""
    from analysis.run_files import read_json
    from analysis.studies.page import write_page

    name = str(read_json(Path(directory) / "study.json").get("study"))
    return write_page(directory, page, page_of(name))
