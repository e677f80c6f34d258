"""From an experiment YAML to frozen cells: includes, defaults, overrides, grids, controls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from recbole_kd.benchmark import (
    inputs,
    objectives,
    overrides,
    properties,
    rankers,
    rooms,
    teacher_lists,
    texts,
)
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, load_marked, merge, plain
from recbole_kd.benchmark.spec import CellLabel, CellSpec, ExperimentSpec, PlannedCell
from recbole_kd.benchmark.validate import check_keys, did_you_mean, validated
from recbole_kd.benchmark.variants import PARTS, Variant, expanded
from recbole_kd.errors import SpecError
from recbole_kd.metrics import standard_name
from recbole_kd.training.spec import DistillSpec, StudentSpec

DEFAULTS = "_defaults"
_KIND = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    MarkedDict: "a mapping",
}


@dataclass(frozen=True)
class Experiment:
    """A validated experiment and its cells in the order in which they should run."""

    spec: ExperimentSpec
    cells: list[PlannedCell]
    source: Path

    @property
    def name(self) -> str:
        """Name of the experiment, also of its folder below the results."""
        return self.spec.experiment


def load_experiment(source: str | Path) -> Experiment:
    """Read an experiment YAML and resolve every cell.

    Parameters
    ----------
    source : str or Path
        A file, or a name in ``properties/experiment``.

    Raises
    ------
    SpecError
        One line with file, line, field and mend.
    """
    path = Path(source)
    if not path.is_file() and path.suffix in (".yaml", ".yml"):
        raise SpecError(
            f"{path}: no such experiment{did_you_mean(path.stem, properties.names('experiment'))}"
        )
    path = path if path.is_file() else properties.find("experiment", str(source))
    data = read_experiment(path)
    if "study" in data:
        name = path.stem.removeprefix("study_")
        raise SpecError(f"{data.where('study')}: a study; run it with 'run_benchmark.py study {name}'")
    return resolve(data, path)


def read_experiment(path: Path) -> MarkedDict:
    """An experiment YAML with its includes, laid over the defaults; not yet validated.

    Raises
    ------
    SpecError
        A file is missing or no YAML, or 'include' goes round in circles.
    """
    return merge(load_marked(properties.find("experiment", DEFAULTS)), _with_includes(path, ()))


def resolve(data: MarkedDict, path: Path, *, cut: bool = False) -> Experiment:
    """Resolve an experiment that was read already (see :func:`load_experiment`).

    Parameters
    ----------
    cut : bool
        Some of its variants were left out: an override may be for one of them.
    """
    spec = validated(ExperimentSpec, data)
    for metric in spec.metrics:
        try:
            standard_name(metric)
        except SpecError as error:
            raise SpecError(f"{data.where('metrics')}: {error}") from error
    if spec.baseline not in spec.variants:
        hint = did_you_mean(spec.baseline, spec.variants)
        raise SpecError(f"{data.where('baseline')}: baseline '{spec.baseline}' is no variant{hint}")
    return Experiment(spec, list(_cells(spec, data, cut)), path)


def _with_includes(path: Path, chain: tuple[Path, ...]) -> MarkedDict:
    """Read a YAML and lay it over everything that it includes, in the order given."""
    if path.resolve() in chain:
        raise SpecError(f"{path}: 'include' goes round in circles")
    whole = load_marked(path)
    included, mark = whole.get("include"), whole.where("include")
    data = whole.without("include")
    if included is None:
        return data
    listed = [included] if isinstance(included, str) else included
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise SpecError(f"{mark}: 'include' must be a file name or a list of them")
    below = MarkedDict(data.mark)
    for name in listed:
        below = merge(below, _with_includes(_included(name, path, mark), (*chain, path.resolve())))
    return merge(below, data)


def _included(name: str, path: Path, mark: Mark) -> Path:
    """The file beside the one that includes it, or else the experiment of that name."""
    beside = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if beside.is_file():
        return beside
    known = name.removesuffix(".yaml").removesuffix(".yml")
    try:
        return properties.find("experiment", known)
    except SpecError as error:
        folders = ", ".join(str(root / "experiment") for root in properties.roots())
        hint = did_you_mean(known, properties.names("experiment"))
        raise SpecError(
            f"{mark}: included file '{beside}' does not exist, nor an experiment '{known}' in {folders}{hint}"
        ) from error


def _cells(spec: ExperimentSpec, data: MarkedDict, cut: bool) -> Iterator[PlannedCell]:
    listed = expanded(spec, data)
    overrides.check(spec, data, None if cut else {name for v in listed for name in v.lineage})
    variants = sorted(listed, key=lambda v: v.name != spec.baseline)
    defaults = cache(lambda backbone, kd: rooms.model_defaults(backbone, kd, data.where("backbones")))
    changes = data.get("dataset")
    datasets = {name: rooms.dataset(name, data.where("datasets"), changes) for name in spec.datasets}
    _check_labels({name: dataset.name for name, (dataset, _) in datasets.items()}, data)
    domains = {dataset.domain for dataset, _ in datasets.values()}
    taught = {(v.name, d): rooms.teacher(v.spec, d, v.mark) for v in variants for d in domains}
    for dataset_name, backbone in itertools.product(spec.datasets, spec.backbones):
        dataset, dataset_source = datasets[dataset_name]
        chosen = [v for v in variants if v.spec.ranker is None and _serves(v, backbone)]
        if not chosen:
            raise SpecError(f"{data.where('backbones')}: no variant is for backbone '{backbone}'")
        students = {}
        for variant in chosen:
            model = defaults(backbone, variant.spec.distilled)
            students[variant.name] = _student(dataset_name, backbone, variant, data, model)
        teachers = {v.name: taught[v.name, dataset.domain] for v in chosen}
        sources = {v.name: rooms.confidence_source(students[v.name], v.mark) for v in chosen}
        own_weights = {v.name: rooms.student_source(students[v.name], v.mark) for v in chosen}
        own = rooms.model_inputs(backbone, data.where("backbones"))
        read = {v.name: inputs.inputs_of(v.spec, own, dataset.domain, v.mark) for v in chosen}
        before = rooms.model_pretraining(backbone, data.where("backbones"))
        for v in chosen:
            over = overrides.of_cell(data, dataset_name, backbone, v.lineage)
            read[v.name] = inputs.with_pretraining(
                read[v.name], v.spec, v.data, before, dataset, dataset_source, students[v.name], over
            )
        lists = {
            v.name: teacher_lists.lists_of(v.spec, v.data, dataset, dataset_source, v.mark, sources[v.name])
            for v in chosen
        }
        made: dict[tuple[str, int], PlannedCell] = {}
        for seed, variant in itertools.product(spec.seeds, chosen):
            teacher = teachers[variant.name]
            cell = CellSpec(
                dataset=dataset,
                dataset_source=dataset_source,
                student=students[variant.name],
                student_source=own_weights[variant.name],
                teacher=None if teacher is None else teacher.canonical,
                teacher_source=None if teacher is None else teacher.source | sources[variant.name],
                teacher_file=None if teacher is None else teacher.file,
                inputs=read[variant.name],
                lists=lists[variant.name],
                seed=seed,
            )
            texts.check(cell, variant.name, variant.mark)
            label = CellLabel(dataset=dataset.name, backbone=backbone, variant=variant.name, seed=seed)
            made[variant.name, seed] = PlannedCell(label=label, spec=cell, cell=cell.address())
            yield made[variant.name, seed]
        yield from _ranker_cells(spec, variants, backbone, made, data)


def _check_labels(names: dict[str, str], data: MarkedDict) -> None:
    """Refuse two datasets that are called the same in tables: their cells could not be told apart."""
    first: dict[str, str] = {}
    for listed, name in names.items():
        if (other := first.setdefault(name, listed)) != listed:
            raise SpecError(
                f"{data.where('datasets')}: '{other}' and '{listed}' are both called '{name}'; give one "
                "another 'name' (and its atomic files), or an experiment of its own"
            )


def _ranker_cells(
    spec: ExperimentSpec,
    variants: list[Variant],
    backbone: str,
    made: dict[tuple[str, int], PlannedCell],
    data: MarkedDict,
) -> Iterator[PlannedCell]:
    """Cells that re-rank candidates of a cell of ``backbone`` that was ``made``."""
    listed = [v for v in variants if v.spec.ranker is not None]
    for variant in listed:
        retriever = rankers.retriever_of(spec.candidates, variant.name, variant.mark)
        mark = data["candidates"].where("retriever")
        if retriever.backbone not in spec.backbones:
            hint = did_you_mean(retriever.backbone, spec.backbones)
            raise SpecError(f"{mark}: '{retriever.backbone}' is not among the backbones{hint}")
        for named in set(variant.spec.backbones or []) - {retriever.backbone}:
            raise SpecError(
                f"{variant.mark}: variant '{variant.name}' re-ranks candidates of {retriever.backbone}, "
                f"not of {named}"
            )
        if retriever.backbone != backbone:
            continue
        known = dict.fromkeys(name for name, _ in made)
        if retriever.variant not in known:
            hint = did_you_mean(retriever.variant, known)
            raise SpecError(f"{mark}: {backbone} has no variant '{retriever.variant}' to retrieve with{hint}")
    chosen = [v for v in listed if (r := spec.candidates.retriever) and r.backbone == backbone]
    for seed, variant in itertools.product(spec.seeds, chosen):
        assert spec.candidates.retriever is not None
        retrieved = made[spec.candidates.retriever.variant, seed]
        yield rankers.plan_ranker(
            variant.spec, variant.data, variant.name, retrieved, spec.candidates, variant.mark
        )


def _serves(variant: Variant, backbone: str) -> bool:
    """Whether a variant is for a backbone; teachers pass by plain baselines that nobody can distil into."""
    if variant.spec.system is not None:
        return _system_serves(variant, variant.spec.system, backbone)
    if variant.spec.backbones is not None:
        return backbone in variant.spec.backbones
    return not variant.spec.distilled or rooms.can_be_distilled(backbone)


def _system_serves(variant: Variant, system: str, backbone: str) -> bool:
    able = inputs.system_file(system, variant.data.where("system")).backbones
    named = variant.spec.backbones
    if unable := [b for b in named or [] if b not in able]:
        raise SpecError(
            f"{variant.mark}: variant '{variant.name}': system '{system}' is for {', '.join(able)}, "
            f"not for {unable[0]}"
        )
    return backbone in (able if named is None else named)


def _student(
    dataset: str, backbone: str, variant: Variant, data: MarkedDict, model: MarkedDict
) -> StudentSpec:
    distilled = variant.spec.distilled
    if not distilled and variant.spec.distill:
        where = variant.data.where("distill")
        raise SpecError(
            f"{where}: variant '{variant.name}' has 'distill' but neither 'teacher' nor 'embeddings' nor "
            "'lists'"
        )
    layers = [*overrides.of_cell(data, dataset, backbone, variant.lineage), variant.data]
    if distilled:
        model = objectives.with_defaults(model, layers)
    for layer in layers:
        for part in PARTS:
            if part == "distill" and not distilled:
                continue
            given = layer.get(part)
            if isinstance(given, MarkedDict):
                check_part(part, given, model, f"{backbone} {part} key")
                model = merge(model, _only(part, given))
    if distilled:
        model = objectives.checked(model)
        distill = model["distill"]
        teacher_lists.check_kind(distill["objective"], variant.spec, distill.where("objective"), variant.mark)
        teacher_lists.check_second(distill.get("also"), variant.spec, distill.where("also"))
    system = inputs.system_of(variant.spec, variant.data)
    if system is not None:
        model = model.without()
        model.put("system", system.canonical(), variant.mark)
    return validated(StudentSpec, model, f"{model['model']}")


def _only(part: str, given: MarkedDict) -> MarkedDict:
    result = MarkedDict(given.mark)
    result.put(part, given, given.mark)
    return result


def check_part(part: str, given: MarkedDict, model: MarkedDict, what: str) -> None:
    """Refuse keys that the model file does not name, and values of another kind than its default.

    Raises
    ------
    SpecError
    """
    known = model.get(part) or {}
    check_keys(given, known, what)
    for key, value in given.items():
        default = known[key]
        if default is None or value is None:
            continue
        if isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool):
            continue
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            continue
        if part == "distill" and isinstance(value, list) and _takes_list(key):
            continue
        kind = _KIND.get(type(default), type(default).__name__)
        raise SpecError(
            f"{given.where(key)}: '{part}.{key}' = {value!r} must be {kind} (default {default!r})"
        )


def _takes_list(key: str) -> bool:
    """Whether a key of ``distill`` takes one value or a list of them, as ``layer`` does."""
    field = DistillSpec.model_fields.get(key)
    return field is not None and any(get_origin(option) is list for option in get_args(field.annotation))


def selected(cells: Iterable[PlannedCell], keep: Callable[[CellLabel], bool]) -> list[PlannedCell]:
    """Cells whose label passes ``keep``."""
    return [cell for cell in cells if keep(cell.label)]


def to_yaml_dict(cell: CellSpec) -> dict[str, Any]:
    """JSON-ready form of a cell, as written to ``spec.yaml``."""
    result = plain(cell.canonical())
    assert isinstance(result, dict)
    return result
