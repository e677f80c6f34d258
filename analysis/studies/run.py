"""A study as far as it has been run: ``study.json``, the experiments that it names, and their points."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.load import Results, load_results
from analysis.made_alike import PER_DATASET, making_problems
from analysis.run_files import read_json
from analysis.wording import condensed
from recbole_kd.errors import StoreError

if TYPE_CHECKING:
    from analysis.studies.gains import Gain

FILE = "study.json"
X = float | str


@dataclass(frozen=True)
class StudyPart:
    """One experiment of a study; ``x`` is None where the places are within the experiment."""

    x: X | None
    results: Results


@dataclass(frozen=True)
class StudyRun:
    """What a page is made of.

    Attributes
    ----------
    directory : Path
        Folder with ``study.json``.
    name, question, command : str
    smoke : bool
    only : str or None
        The filter of a part of the study, and
    planned : int
        how many runs the whole of it has.
    x_label : str
        Of the horizontal axis; empty without one.
    x_log : bool
    figures, tables : tuple of str
        Kinds, in order.
    known : tuple of dict
        ``case``, ``of``, ``why`` of what must come out.
    settings : dict
        Whatever the study's own file wants to know from the YAML.
    parts : tuple of StudyPart
    points : dict
        Variant -> places within its experiment: (series, x).
    left_out : tuple of str
        Datasets that the study would like to have, but whose files are not at hand.
    pending : tuple of str
        Weighted variants whose weights were not made yet.
    """

    directory: Path
    name: str
    question: str
    command: str
    smoke: bool
    only: str | None
    planned: int
    x_label: str
    x_log: bool
    figures: tuple[str, ...]
    tables: tuple[str, ...]
    known: tuple[dict[str, Any], ...]
    settings: Mapping[str, Any]
    parts: tuple[StudyPart, ...]
    points: Mapping[str, tuple[tuple[str, X], ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    @cached_property
    def gains(self) -> list[Gain]:
        """Every planned comparison of every part, corrected as one family (`analysis.studies.gains`)."""
        from analysis.studies.gains import all_gains

        return all_gains(self)

    @property
    def metric(self) -> str:
        """The metric that is tested."""
        return self.parts[0].results.metrics[0]

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return self.parts[0].results.baseline

    @property
    def problems(self) -> list[str]:
        """What a reader must be told, each once."""
        notes = []
        for part in self.parts:
            where = "" if part.x is None else f"{self.x_label} {show_x(part.x)}; "
            for problem in part.results.problems:
                head, _, rest = problem.partition(": ")
                if head not in PER_DATASET:
                    notes.append(f"{head}: {where}{rest}")
        # Of all parts together: they are compared with each other too, and each would say the same.
        notes += making_problems(
            (str(row.dataset), part.results.manifests[str(row.cell)])
            for part in self.parts
            for row in part.results.done.itertuples()
        )
        found = [
            f"left out: {name}" if ": " in name else f"left out: {name}, whose files are not at hand"
            for name in self.left_out
        ]
        found += [f"not run: {name}, whose weights were not made" for name in self.pending]
        return found + condensed(notes)

    def counts(self) -> tuple[int, int]:
        """Finished and planned runs, each counted once."""
        planned = {cell for part in self.parts for cell in part.results.runs["cell"]}
        done = {cell for part in self.parts for cell in part.results.done["cell"]}
        return len(done), len(planned)

    def manifest_hash(self) -> str:
        """SHA-256 (16 digits) over the manifests of all finished runs, by ascending cell."""
        paths = {
            str(row.cell): Path(row.path) / "manifest.json"
            for part in self.parts
            for row in part.results.done.itertuples()
        }
        state = hashlib.sha256()
        for cell in sorted(paths):
            state.update(f"{cell} {hashlib.sha256(paths[cell].read_bytes()).hexdigest()}\n".encode())
        return state.hexdigest()[:16]


def show_x(x: X | None) -> str:
    """A place on the axis in words."""
    if x is None or isinstance(x, str):
        return x or ""
    return f"{x:,.0f}" if abs(x) >= 10_000 and x == int(x) else f"{x:g}"


def load_study_run(directory: str | Path, *, masked: bool = False) -> StudyRun:
    """Read a study, finished or not.

    Raises
    ------
    StoreError
        ``study.json`` or an ``experiment.json`` is missing or malformed.
    """
    home = Path(directory)
    data = read_json(home / FILE)
    if data.get("format") != 1:
        raise StoreError(f"{home / FILE}: field 'format' is {data.get('format')!r}, this version reads 1")
    try:
        axis = data["x"] or {}
        points: dict[str, tuple[tuple[str, X], ...]] = {}
        for point in data["points"]:
            have = points.get(point["variant"], ())
            points[point["variant"]] = (*have, (point["series"], point["x"]))
        parts = tuple(
            StudyPart(part["x"], load_results(home / part["folder"], masked=masked)) for part in data["parts"]
        )
        return StudyRun(
            directory=home,
            name=data["study"],
            question=data["question"],
            command=data["command"],
            smoke=bool(data["smoke"]),
            only=data.get("only"),
            planned=int(data.get("planned", 0)),
            x_label=axis.get("label", ""),
            x_log=bool(axis.get("log")),
            figures=tuple(data["figures"]),
            tables=tuple(data["tables"]),
            known=tuple(data["known"]),
            settings=data["settings"],
            parts=parts,
            points=points,
            left_out=tuple(data.get("left_out") or ()),
            pending=tuple(data.get("pending") or ()),
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{home / FILE}: lacks or misuses {error}; run the study again") from None
