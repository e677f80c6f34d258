"""The page of a study, written from the produced files: the same files always give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from analysis.figures.style import figure_bytes
from analysis.files import write_atomic
from analysis.studies.figures import FIGURES, FigureMaker
from analysis.studies.known import CHECKS, Check
from analysis.studies.run import StudyRun, load_study_run, show_x
from analysis.studies.sentences import answer
from analysis.studies.tables import TABLES, TableMaker
from analysis.table import Table, markdown_escape
from analysis.tables.protocol import protocol_lines
from recbole_kd.errors import SpecError

Maker = TypeVar("Maker")
AnswerMaker = Callable[[StudyRun], list[str]]
_MARK = {True: "holds", False: "**does not hold**", None: "not checked"}
_EMPTY = "Empty: none of its runs is in this part of the study.\n"


@dataclass(frozen=True)
class StudyPage:
    """What a study's own file adds to the kinds that every study can name.

    Attributes
    ----------
    answer : callable
        ``StudyRun -> list of three sentences``.
    figures, tables, known : mapping
        Kinds by name.
    """

    answer: AnswerMaker = answer
    figures: Mapping[str, FigureMaker] = field(default_factory=dict)
    tables: Mapping[str, TableMaker] = field(default_factory=dict)
    known: Mapping[str, Check] = field(default_factory=dict)


def write_page(directory: str | Path, page: Path, own: StudyPage) -> list[Path]:
    """Write the page of a study, its figures and the numbers behind its tables.

    Parameters
    ----------
    directory : path
        Folder with ``study.json``.
    page : Path
        The Markdown file; figures (``<stem>-<kind>.png``) and tables with rows (``<stem>-<kind>.csv`` and
        ``.tex``) go beside it.
    own : StudyPage

    Returns
    -------
    list of Path

    Raises
    ------
    SpecError
        A kind that nobody knows.
    StoreError
        Files cannot be read or written.
    """
    run = load_study_run(directory)
    figures = {kind: _kind("figure", kind, {**FIGURES, **own.figures})(run) for kind in run.figures}
    tables = {kind: _kind("table", kind, {**TABLES, **own.tables})(run) for kind in run.tables}
    text = _text(run, page.stem, list(figures), tables, own)
    paths = [
        write_atomic(page.with_name(f"{page.stem}-{kind}.png"), figure_bytes(figure, "png"))
        for kind, figure in figures.items()
    ]
    paths += [
        write_atomic(page.with_name(f"{page.stem}-{kind}.{suffix}"), rendered)
        for kind, table in tables.items()
        if table.rows
        for suffix, rendered in (("csv", table.to_csv()), ("tex", table.to_latex()))
    ]
    return [write_atomic(page, text), *paths]


def _kind(what: str, name: str, known: Mapping[str, Maker]) -> Maker:
    if name not in known:
        raise SpecError(f"study: {what} '{name}' is unknown; use one of {', '.join(sorted(known))}")
    return known[name]


def _text(run: StudyRun, stem: str, figures: list[str], tables: Mapping[str, Table], own: StudyPage) -> str:
    done, planned = run.counts()
    title = run.name.replace("_", " ")
    lines = [f"# {title[:1].upper()}{title[1:]}{' (smoke)' if run.smoke else ''}", ""]
    lines += [f"Written by `{run.command}`; not by hand.", ""]
    if run.smoke:
        lines += ["**A small cut that shows that the study runs. Its numbers mean nothing.**", ""]
    if run.only is not None:
        lines += [f"**A part of the study: {planned} of its {run.planned} runs, `{run.only}`.**", ""]
    if done < planned or run.pending:
        lines += [f"**Unfinished: {done} of {planned} runs.**", ""]
    lines += ["## Question", "", markdown_escape(run.question), "", "## Answer", ""]
    lines += [f"{number}. {markdown_escape(text)}" for number, text in enumerate(own.answer(run), 1)]
    lines += ["", "## Protocol", "", *_protocol(run), ""]
    for kind in figures:
        lines += [f"## Figure: {kind}", "", f"![{kind}]({stem}-{kind}.png)", ""]
    for kind, table in tables.items():
        lines += [f"## Table: {kind}", "", table.to_markdown() if table.rows else _EMPTY]
    lines += [*_known(run, own), "## Run it", "", "```", run.command, "```", ""]
    lines += [f"Runs: {done} of {planned}. Manifest hash: `{run.manifest_hash()}`.", ""]
    if run.problems:
        lines += ["Reservations:", "", *(f"- {markdown_escape(text)}" for text in run.problems), ""]
    return "\n".join(lines)


def _protocol(run: StudyRun) -> list[str]:
    """What the numbers rest on; parts that share their protocol are named together."""
    places: dict[str, list[str]] = {}
    for part in run.parts:
        for line in protocol_lines(part.results):
            places.setdefault(line, []).append(show_x(part.x))
    lines = []
    for text, listed in places.items():
        where = f"{run.x_label}: {', '.join(listed)}; " if len(places) > 1 and any(listed) else ""
        lines += [f"> {markdown_escape(where + text)}", ">"]
    return lines[:-1] or ["> No run yet."]


def _known(run: StudyRun, own: StudyPage) -> list[str]:
    if not run.known:
        return []
    known: Mapping[str, Check] = {**CHECKS, **own.known}
    lines = ["## Known cases", ""]
    for case in run.known:
        outcome = _kind("known case", case["case"], known)(run, case["of"])
        lines.append(
            f"- {_MARK[outcome.holds]}: {markdown_escape(case['why'])} ({markdown_escape(outcome.found)})"
        )
    return [*lines, ""]


__all__ = ["StudyPage", "write_page"]
