"""From ``properties/experiment/study_<name>.yaml`` to experiments and the record that the page is made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from recbole_kd.benchmark import properties, rooms, rundir
from recbole_kd.benchmark.filters import parse_filter
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge, plain
from recbole_kd.benchmark.resolve import Experiment, read_experiment, resolve
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.benchmark.study.spec import PartSpec, StudySpec, X
from recbole_kd.benchmark.study.steps import check_steps
from recbole_kd.benchmark.study.weights import weighted_variants, with_weights
from recbole_kd.benchmark.validate import did_you_mean, validated
from recbole_kd.errors import DataError, SpecError, UserError

PREFIX = "study_"
FILE = "study.json"
FORMAT = 1
_PLACE = "$x"


@dataclass(frozen=True)
class Part:
    """One experiment of a study; ``x`` is None where the places are within the experiment."""

    x: X | None
    experiment: Experiment


@dataclass(frozen=True)
class Study:
    """A study that is ready to run.

    Attributes
    ----------
    name : str
    folder : str
        Name of its folder below the results.
    spec : StudySpec
    parts : list of Part
    points : list of dict
        ``variant``, ``series``, ``x``: the places that are within an experiment.
    left_out : tuple of str
        Optional datasets whose files are not at hand.
    pending : tuple of str
        Weighted variants whose weights have not been made.
    smoke : bool
    source : Path
    only : str or None
        The filter to which the study was narrowed, and
    planned : int
        how many runs the whole of it has.
    """

    name: str
    folder: str
    spec: StudySpec
    parts: list[Part]
    points: list[dict[str, Any]]
    left_out: tuple[str, ...]
    pending: tuple[str, ...]
    smoke: bool
    source: Path
    only: str | None = None
    planned: int = 0

    def cells(self) -> dict[str, PlannedCell]:
        """Every planned cell of every part, each address once."""
        return {cell.cell: cell for part in self.parts for cell in part.experiment.cells}

    def narrowed(self, only: str, unasked: int = 0) -> Study:
        """A part of the study: the cells that pass the filter ``--only``; its page says so.

        Parameters
        ----------
        only : str
        unasked : int
            Runs of the whole that were left out before.

        Raises
        ------
        SpecError
            The filter is malformed.
        UserError
            It leaves nothing to compare: no cell at all, or none of the baseline.
        """
        parts = []
        for part in self.parts:
            keep = _filter(only, part.x)
            cells = [cell for cell in part.experiment.cells if keep(cell)]
            if not cells:
                continue
            baseline = part.experiment.spec.baseline
            if all(cell.label.variant != baseline for cell in cells):
                place = "" if part.x is None else f" at {show_place(part.x)}"
                raise UserError(
                    f"--only '{only}' leaves out the baseline '{baseline}'{place}, the base of every gain"
                )
            parts.append(replace(part, experiment=replace(part.experiment, cells=cells)))
        if not parts:
            raise UserError(
                f"--only '{only}' leaves no cell of study {self.name}; see 'study {self.name} --plan'"
            )
        left = {cell.label.variant for part in parts for cell in part.experiment.cells}
        points = [point for point in self.points if point["variant"] in left]
        # A place that a series borrows is no line without places of its own.
        own = {p["series"] for p in points if p["variant"].startswith(f"{p['series']}@")}
        points = [point for point in points if point["series"] in own]
        return replace(self, parts=parts, points=points, only=only, planned=len(self.cells()) + unasked)

    def record(self) -> dict[str, Any]:
        """What ``study.json`` holds."""
        return {
            "format": FORMAT,
            "study": self.name,
            "smoke": self.smoke,
            "question": self.spec.question,
            "x": None if self.spec.x is None else self.spec.x.canonical(),
            "figures": self.spec.figures,
            "tables": self.spec.tables,
            "known": [known.canonical() for known in self.spec.known or []],
            "settings": self.spec.settings or {},
            "left_out": list(self.left_out),
            "pending": list(self.pending),
            "only": self.only,
            "planned": self.planned or len(self.cells()),
            "command": self.command(),
            "parts": [{"x": part.x, "folder": f"../{part.experiment.name}"} for part in self.parts],
            "points": self.points,
        }

    def command(self) -> str:
        """The command line that makes the page."""
        line = f"python run_benchmark.py study {self.name}" + (" --smoke" if self.smoke else "")
        return line if self.only is None else f"{line} --only {shlex.quote(self.only)}"

    def write_record(self, results: Path) -> Path:
        """Write ``study.json``; return the folder of the study."""
        home = results / self.folder
        rundir.write_text_atomic(home / FILE, json.dumps(self.record(), indent=1) + "\n")
        return home


def names() -> list[str]:
    """Studies that there are."""
    return [n.removeprefix(PREFIX) for n in properties.names("experiment") if n.startswith(PREFIX)]


def load_study(
    name: str,
    *,
    smoke: bool = False,
    results: Path | None = None,
    only: str | None = None,
    weigh: bool = True,
) -> Study:
    """Read a study and resolve every cell of it.

    Parameters
    ----------
    name : str
        ``cold_start`` for ``properties/experiment/study_cold_start.yaml``; or a path.
    smoke : bool
        Lay the section ``study.smoke`` over everything.
    results : Path, optional
        Where the weights of ``weighted`` series are (made); without it they are left out.
    only : str, optional
        A part of the study: the filter ``--only``.
    weigh : bool
        Make the weights that are missing; else their variants wait.

    Raises
    ------
    SpecError
    UserError
        The filter leaves nothing to compare.
    """
    known = names()
    if not name.endswith((".yaml", ".yml")) and name not in known:
        raise SpecError(f"no study '{name}'{did_you_mean(name, known)}")
    path = Path(name) if name.endswith((".yaml", ".yml")) else properties.find("experiment", PREFIX + name)
    title = path.stem.removeprefix(PREFIX)
    data = read_experiment(path)
    spec, data = _study(data, smoke)
    check_steps(spec.after, data["study"].where("after"))
    folder = PREFIX + title + ("-smoke" if smoke else "")
    body, points = _with_series(data, spec)
    parts: list[Part] = []
    left_out, pending, unasked = dict[str, None](), dict[str, None](), 0
    for x, over, tail in _parts(spec, data.where("study")):
        whole = _at_hand(_kept(merge(body, over), spec), spec.optional, left_out)
        if not whole["datasets"]:
            continue
        whole = _with_needs(whole, spec, left_out)
        whole.put("experiment", folder + tail, data.where("experiment"))
        weighted = weighted_variants(spec, points)
        if results is not None and weighted:
            asked = resolve(whole, path, cut=_lacks(whole, body, smoke)).cells
            chosen = asked if only is None else list(filter(_filter(only, x), asked))
            # Weights are known per dataset; those of a dataset that nobody asked for must not be waited for.
            there = {c.label.dataset for c in chosen} or set(whole["datasets"])
            whole = _on(whole, [name for name in whole["datasets"] if name in there])
            wanted = {c.label.variant for c in chosen}
            whole, put_off = with_weights(whole, weighted, results, wanted if weigh else set())
            pending |= dict.fromkeys(name for name in put_off if name in wanted)
            gone = set(put_off) - wanted
            unasked += sum(c.label.dataset not in there or c.label.variant in gone for c in asked)
        parts.append(Part(x, resolve(whole, path, cut=_lacks(whole, body, smoke))))
    if not parts:
        raise SpecError(
            f"{data.where('datasets')}: none of {', '.join(left_out)} is at hand; bring one of them"
        )
    planned = {cell.label.variant for part in parts for cell in part.experiment.cells}
    points = [point for point in points if point["variant"] in planned]
    study = Study(title, folder, spec, parts, points, tuple(left_out), tuple(pending), smoke, path)
    return study if only is None else study.narrowed(only, unasked)


def _study(data: MarkedDict, smoke: bool) -> tuple[StudySpec, MarkedDict]:
    """Section ``study`` validated, and the data with the cut of ``--smoke`` laid over it."""
    if not isinstance(data.get("study"), MarkedDict):
        raise SpecError(f"{data.mark}: 'study' is missing; this is an experiment, run it with 'run'")
    own: MarkedDict = data["study"]
    spec = validated(StudySpec, own, "study")
    if not smoke:
        return spec, data
    cut: MarkedDict = own["smoke"]
    laid = merge(data, cut)
    if cut.get("overrides"):
        # Lists replace each other elsewhere; here the cut must not lose what the study needs.
        laid.put("overrides", [*(data.get("overrides") or []), *cut["overrides"]], cut.where("overrides"))
    return validated(StudySpec, laid["study"], "study"), laid


def _with_series(data: MarkedDict, spec: StudySpec) -> tuple[MarkedDict, list[dict[str, Any]]]:
    """The experiment with one variant for every place of every series, and these places."""
    body = data.without("study")
    given = data.get("variants")
    if not isinstance(given, MarkedDict):
        raise SpecError(f"{data.where('variants')}: 'variants' must name at least the baseline")
    variants = given.without()
    points: list[dict[str, Any]] = []
    raw = data["study"].get("series") or {}
    for name, series in (spec.series or {}).items():
        if not _matches(name, spec.keep.series if spec.keep else None):
            continue
        mark = data["study"]["series"].where(name)
        for x, value in zip(series.x, series.values or series.x, strict=True):
            variant = f"{name}@{show_place(x)}"
            if variant in variants:
                raise SpecError(f"{mark}: series '{name}': variant '{variant}' stands there already")
            variants.put(variant, _filled(raw[name]["variant"], value, mark), mark)
            points.append({"variant": variant, "series": name, "x": x})
        points += [{"variant": v, "series": name, "x": x} for v, x in (series.also or {}).items()]
        if unknown := [v for v in series.also or {} if v not in variants]:
            raise SpecError(f"{mark}: series '{name}': 'also' names '{unknown[0]}', which is no variant")
    for name in spec.needs or {}:
        if name not in variants and name.partition("@")[0] not in raw and name not in given:
            where = data["study"]["needs"].where(name)
            raise SpecError(f"{where}: study.needs: '{name}' is no variant{did_you_mean(name, variants)}")
    body.put("variants", _with_profile(variants, data["study"].get("profile")), data.where("variants"))
    return body, points


def _with_profile(variants: MarkedDict, profile: MarkedDict | None) -> MarkedDict:
    """Variants with ``study.profile`` laid under the profile of each that has a teacher."""
    if profile is None:
        return variants
    below = MarkedDict(profile.mark)
    below.put("profile", profile, profile.mark)
    result = MarkedDict(variants.mark)
    for name, variant in variants.items():
        taught = isinstance(variant, MarkedDict) and variant.get("teacher") is not None
        result.put(name, merge(below, variant) if taught else variant, variants.where(name))
    return result


def _parts(spec: StudySpec, mark: Mark) -> Iterator[tuple[X | None, MarkedDict, str]]:
    """Place, what is laid over the experiment, and the end of its name."""
    if not spec.parts:
        yield None, MarkedDict(mark), ""
        return
    listed = [(x, part) for part in spec.parts for x in _places(part)]
    patterns = spec.keep.parts if spec.keep else None
    kept = [(x, part) for x, part in listed if _matches(show_place(x), patterns)]
    if not kept:
        every = ", ".join(show_place(x) for x, _ in listed)
        raise SpecError(f"{mark}: study: 'keep.parts' leaves none of {every}")
    for x, part in kept:
        yield x, _filled(part.over, x, mark), f"-x={show_place(x).replace(' ', '-')}"


def _places(part: PartSpec) -> list[X]:
    return part.x if isinstance(part.x, list) else [part.x]


def _kept(data: MarkedDict, spec: StudySpec) -> MarkedDict:
    """The experiment without the variants that ``keep`` leaves out; the baseline stays."""
    patterns = spec.keep.variants if spec.keep else None
    if patterns is None:
        return data
    given: MarkedDict = data["variants"]
    gone = [v for v in given if v != data["baseline"] and "@" not in v and not _matches(v, patterns)]
    result = data.without()
    result.put("variants", given.without(*gone), data.where("variants"))
    return result


def _at_hand(data: MarkedDict, optional: list[str] | None, left_out: dict[str, None]) -> MarkedDict:
    """The experiment without those optional datasets whose files are not there."""
    gone = []
    for name in data["datasets"]:
        if name in (optional or []):
            try:
                rooms.dataset(name, data.where("datasets"), data.get("dataset"))
            except DataError:
                gone.append(name)
    left_out |= dict.fromkeys(gone)
    return _on(data, [name for name in data["datasets"] if name not in gone])


def _lacks(data: MarkedDict, whole: MarkedDict, smoke: bool) -> bool:
    """Whether variants were left out, so that an override may be for one that is not there."""
    return smoke or not set(whole["variants"]) <= set(data["variants"])


def _on(data: MarkedDict, datasets: list[str]) -> MarkedDict:
    """The experiment on these datasets only."""
    result = data.without()
    result.put("datasets", datasets, data.where("datasets"))
    return result


def _with_needs(data: MarkedDict, spec: StudySpec, left_out: dict[str, None]) -> MarkedDict:
    """The experiment without those variants that lack what they need."""
    gone = []
    for name, need in (spec.needs or {}).items():
        lacks = need.lacking()
        if lacks is not None and name in data["variants"]:
            gone.append(name)
            left_out[f"{name}: {lacks}"] = None
    result = data.without()
    result.put("variants", data["variants"].without(*gone), data.where("variants"))
    return result


def _matches(name: str, patterns: list[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def _filter(only: str, x: X | None) -> Callable[[PlannedCell], bool]:
    return parse_filter(only, None if x is None else show_place(x))


def show_place(x: X | None) -> str:
    """A place on the axis in words."""
    return "" if x is None else x if isinstance(x, str) else f"{x:g}"


def _filled(value: Any, x: Any, mark: Mark) -> Any:
    """Copy of a template with the place put in, as YAML that knows where it was written."""
    if isinstance(value, dict):
        result = MarkedDict(value.mark if isinstance(value, MarkedDict) else mark)
        for key, inner in value.items():
            where = value.where(key) if isinstance(value, MarkedDict) else mark
            result.put(key, _filled(inner, x, where), where)
        return result
    if isinstance(value, list | tuple):
        return [_filled(inner, x, mark) for inner in value]
    if value == _PLACE:
        return int(x) if isinstance(x, float) and x.is_integer() else x
    if isinstance(value, str) and _PLACE in value:
        return value.replace(_PLACE, show_place(x))
    return plain(value)


__all__ = ["FILE", "PREFIX", "Part", "Study", "load_study", "names", "show_place"]
