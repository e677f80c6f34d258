"""Cells that re-rank: from a variant with ``ranker:`` to a frozen cell that names its retriever's run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_kd.baselines.llm import RANKERS
from recbole_kd.baselines.llm.spec import CandidatesSpec, RankerFile, RankerSpec, RetrieverSpec
from recbole_kd.benchmark import inputs, properties, rooms
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge, plain
from recbole_kd.benchmark.spec import CellLabel, CellSpec, InputsSpec, PlannedCell, VariantSpec
from recbole_kd.benchmark.validate import check_keys, did_you_mean, validated
from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    from profiles.spec import WriterSpec
    from recbole_kd.baselines.llm.base import LLMRanker

_FROM = "profile"


def ranker_class(name: str) -> type[LLMRanker]:
    """Class of a registered ranker."""
    module, _, attribute = RANKERS[name].partition(":")
    found: type[LLMRanker] = getattr(importlib.import_module(module), attribute)
    return found


def retriever_of(candidates: CandidatesSpec, variant: str, mark: Mark) -> RetrieverSpec:
    """The retriever of an experiment.

    Raises
    ------
    SpecError
        There is none, but a variant re-ranks.
    """
    if candidates.retriever is None:
        raise SpecError(
            f"{mark}: variant '{variant}' re-ranks candidates; add "
            "'candidates: {retriever: {backbone: ..., variant: ...}}'"
        )
    return candidates.retriever


def ranker_of(variant: VariantSpec, raw: MarkedDict, domain: str) -> dict[str, Any]:
    """Spec and source of a variant's ranker, with the variant's keys laid over its file.

    Raises
    ------
    SpecError
        Unknown ranker, parameter, model or key.
    """
    assert variant.ranker is not None
    asked = raw.where("ranker")
    data = properties.load("ranker", variant.ranker, asked)
    file = validated(RankerFile, data, f"ranker '{variant.ranker}'")
    if file.ranker not in RANKERS:
        hint = did_you_mean(file.ranker, RANKERS)
        raise SpecError(f"{data.where('ranker')}: no ranker '{file.ranker}'{hint}")
    given = raw.get("params")
    if isinstance(given, MarkedDict):
        check_keys(given, file.params, f"{variant.ranker} params key")
    params = plain(merge(data["params"], given) if isinstance(given, MarkedDict) else data["params"])
    llm = _writer(data, raw, variant.ranker)
    kind = ranker_class(file.ranker)
    try:
        kind.check(params, llm)
    except SpecError as error:
        raise SpecError(f"{asked}: ranker '{variant.ranker}': {error}") from error
    spec = RankerSpec(name=file.ranker, params=params, llm=None if llm is None else llm.canonical())
    read = {} if llm is None else {"writer": llm.canonical()}
    weights = rooms.weights_source(read, f"{asked}: ranker '{variant.ranker}' llm")
    return {"spec": plain(spec.canonical()), "source": kind.source(params, domain) | weights}


def _writer(data: MarkedDict, raw: MarkedDict, name: str) -> WriterSpec | None:
    """WriterSpec of a ranker's model: that of the profile file it names, with other keys laid over."""
    from profiles.llm import BACKENDS
    from profiles.spec import WriterSpec

    given = data.get("llm")
    if not isinstance(given, MarkedDict):
        if raw.get("llm") is not None:
            raise SpecError(f"{raw.where('llm')}: ranker '{name}' asks no language model; remove 'llm'")
        return None
    over = raw.get("llm")
    given = merge(given, over) if isinstance(over, MarkedDict) else given
    mark = given.where(_FROM)
    writer = properties.load("profile", str(given.get(_FROM)), mark)["writer"]
    spec = validated(WriterSpec, merge(writer, given.without(_FROM)), f"ranker '{name}' llm")
    try:
        BACKENDS.check(spec.backend)
    except SpecError as error:
        raise SpecError(f"{given.where('backend')}: {error}") from error
    # How profiles are prompted says nothing about how candidates are ranked.
    history = spec.history.model_copy(update={"strategy": "recent", "max_items": None})
    return spec.model_copy(update={"prompt": "-", "domain": None, "history": history})


def plan_ranker(
    variant: VariantSpec,
    raw: MarkedDict,
    name: str,
    retriever: PlannedCell,
    candidates: CandidatesSpec,
    mark: Mark,
) -> PlannedCell:
    """The cell of a ranker over the cell of its retriever.

    Raises
    ------
    SpecError
    """
    base = retriever.spec
    if base.dataset.text is None:
        raise SpecError(f"{mark}: variant '{name}': dataset {base.dataset.name} has no item texts to rank by")
    reads = None
    if variant.inputs is not None:
        if variant.inputs.items is not None or variant.inputs.teacher is None:
            raise SpecError(f"{mark}: variant '{name}': inputs of a ranker are {{teacher: PROFILE}}")
        nobody = VariantSpec(ranker=variant.ranker, inputs=variant.inputs)
        asks = InputsSpec(teacher=variant.inputs.teacher)
        reads = inputs.inputs_of(nobody, asks, base.dataset.domain, mark)
    ranker = ranker_of(variant, raw, base.dataset.domain)
    _check_profile(ranker["spec"]["params"].get("profile"), reads is not None, f"{mark}: variant '{name}'")
    ranker |= {
        "candidates": candidates.sets() | {"parts": candidates.parts},
        "retriever": retriever.cell,
    }
    cell = CellSpec(
        dataset=base.dataset,
        dataset_source=base.dataset_source,
        student=base.student.model_copy(update={"distill": None}),
        student_source=base.student_source,
        teacher=None,
        teacher_source=None,
        teacher_file=None,
        inputs=reads,
        ranker=ranker,
        seed=base.seed,
    )
    label = CellLabel(**{**retriever.label.canonical(), "variant": name})
    return PlannedCell(label=label, spec=cell, cell=cell.address())


def _check_profile(said: Any, reads: bool, where: str) -> None:
    """A profile in the prompt needs a teacher, and a teacher a ranker that reads its texts."""
    if said not in (None, "none") and not reads:
        raise SpecError(f"{where}: params.profile is '{said}'; name whose: inputs: {{teacher: PROFILE}}")
    if said in (None, "none") and reads:
        raise SpecError(f"{where}: inputs.teacher is not read; set params: {{profile: beside}} or instead")


def repointed(cell: PlannedCell, retrievers: Mapping[str, PlannedCell]) -> PlannedCell:
    """The cell of a ranker over another run of its retriever.

    Parameters
    ----------
    retrievers : mapping
        Address of the present retriever -> the one in its place.
    """
    assert cell.spec.ranker is not None
    chosen = retrievers[str(cell.spec.ranker["retriever"])]
    student = chosen.spec.student.model_copy(update={"distill": None})
    ranker = {**cell.spec.ranker, "retriever": chosen.cell}
    source = chosen.spec.student_source
    spec = cell.spec.model_copy(update={"student": student, "student_source": source, "ranker": ranker})
    return PlannedCell(label=cell.label, spec=spec, cell=spec.address())


def needs(cell: CellSpec) -> str | None:
    """Address of the run that must exist before a cell can run."""
    return None if cell.ranker is None else str(cell.ranker["retriever"])


def with_retrievers(cells: list[PlannedCell], every: Mapping[str, PlannedCell]) -> list[PlannedCell]:
    """Cells in running order: the retrievers of those that re-rank come along, and first.

    Parameters
    ----------
    every : mapping
        Address -> cell of the whole experiment.
    """
    have = {cell.cell for cell in cells}
    added = dict.fromkeys(a for c in cells if (a := needs(c.spec)) is not None and a not in have)
    first = [every[address] for address in added if address in every]
    plainly = [cell for cell in cells if cell.spec.ranker is None]
    return first + plainly + [cell for cell in cells if cell.spec.ranker is not None]
