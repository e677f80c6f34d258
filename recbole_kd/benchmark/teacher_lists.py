"""Where the lists of objectives over lists come from: a registry of sources, each resolved and built."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from recbole_kd.benchmark import objectives, properties
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge, plain
from recbole_kd.benchmark.spec import CellLabel, CellSpec, VariantSpec
from recbole_kd.benchmark.validate import did_you_mean, validated
from recbole_kd.errors import ProfileError, SpecError
from recbole_kd.strict import Strict

if TYPE_CHECKING:
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import Split

# Seconds between two looks at a teacher that another process is training.
_BUSY_PAUSE = 1.0


class TextLists(Strict):
    """Items nearest to the profile's text."""

    source: str
    top: int = Field(ge=1)
    exclude_seen: bool


class RecommenderLists(Strict):
    """Best items of another recommender."""

    source: str
    backbone: str
    hparams: dict[str, Any]
    train: dict[str, Any]
    seed: int = Field(ge=0)
    top: int = Field(ge=1)
    exclude_seen: bool


class FileLists(Strict):
    """Lists that exist already."""

    source: str
    path: str
    trust_unverified: bool
    top: int | None = Field(ge=1)


@dataclass(frozen=True)
class Request:
    """What a source needs to know to resolve itself into a cell."""

    spec: Any
    dataset: Any
    dataset_source: dict[str, str]
    asked_at: Mark


@dataclass(frozen=True)
class Source:
    """A source of lists.

    Attributes
    ----------
    spec : type
        Its keys; their defaults stand in ``properties/lists/<name>.yaml``.
    needs_teacher : bool
        Whether the variant must name a ``teacher``.
    resolve : callable
        ``(Request) -> dict``: what of it enters the cell, content first.
    build : callable
        ``(results, cell, split) -> Path``: make or find the list file.
    """

    spec: type[Strict]
    needs_teacher: bool
    resolve: Callable[[Request], dict[str, Any]]
    build: Callable[[Path, CellSpec, Split], Path]


def lists_of(
    variant: VariantSpec,
    raw: MarkedDict,
    dataset: Any,
    dataset_source: dict[str, str],
    mark: Mark,
    read: dict[str, str],
) -> dict[str, Any] | None:
    """Lists of a cell: ``{"spec": ..., ...}``, ``None`` for a variant without.

    Parameters
    ----------
    mark : Mark
        Where the variant stands.
    read : dict
        What else the student reads -> SHA-256.

    Raises
    ------
    SpecError, ProfileError
        Unknown source or key, a teacher where none is needed or none where one is.
    """
    if variant.lists is None:
        return None
    given, mark = raw["lists"], raw.marks.get("lists", mark)
    name = given.get("source")
    if name not in SOURCES:
        raise SpecError(
            f"{given.where('source')}: lists.source {name!r} is unknown{did_you_mean(str(name), SOURCES)}"
        )
    source = SOURCES[name]
    spec = validated(source.spec, merge(properties.load("lists", name, mark), given), f"lists from {name}")
    if source.needs_teacher and variant.teacher is None:
        raise SpecError(f"{mark}: lists from {name} need a 'teacher' whose profiles they are made from")
    if not source.needs_teacher and (variant.teacher or variant.embeddings):
        raise SpecError(f"{mark}: lists from {name} need no 'teacher' or 'embeddings'; remove it")
    return source.resolve(Request(spec, dataset, dataset_source, mark)) | read


def check_kind(objective: str, variant: VariantSpec, chosen: Mark, asked_at: Mark) -> None:
    """Refuse an objective whose kind of teacher the variant does not bring.

    Parameters
    ----------
    chosen, asked_at : Mark
        Where the objective was chosen, and the variant.

    Raises
    ------
    SpecError
    """
    kind = objectives.OBJECTIVES[objective].kind
    if kind == "lists" and variant.lists is None:
        raise SpecError(
            f"{chosen}: objective '{objective}' learns from lists; add e.g. 'lists: {{source: text}}' "
            f"({', '.join(SOURCES)})"
        )
    if kind != "lists" and variant.lists is not None:
        known = [name for name, o in objectives.OBJECTIVES.items() if o.kind == "lists"]
        raise SpecError(
            f"{asked_at}: objective '{objective}' does not learn from lists; use one of "
            f"{', '.join(known)}, or remove 'lists'"
        )


def check_second(also: MarkedDict | None, variant: VariantSpec, asked_at: Mark) -> None:
    """Refuse a second objective where there is no recommender whose vectors it could learn.

    Raises
    ------
    SpecError
    """
    if also is None:
        return
    if (variant.lists or {}).get("source") != "recommender":
        raise SpecError(
            f"{asked_at}: 'also' learns the vectors of a recommender; add 'lists: {{source: recommender}}'"
        )


def build(results: Path, cell: CellSpec, split: Split) -> tuple[Path, TeacherLists]:
    """Make (or find) the list file of a cell and check it against the split.

    Raises
    ------
    UserError
    """
    assert cell.lists is not None
    path = SOURCES[cell.lists["spec"]["source"]].build(results, cell, split)
    return path, read(path, cell, split)


def read(path: str | Path, cell: CellSpec, split: Split) -> TeacherLists:
    """Read a list file as a cell asks for it."""
    from recbole_kd.data.profile_table import load_profiles
    from recbole_kd.data.teacher_lists import load_teacher_lists

    assert cell.lists is not None
    spec = cell.lists["spec"]
    found = load_teacher_lists(path, split, trust_unverified=bool(spec.get("trust_unverified")))
    if learns_states(cell):
        found = replace(found, vectors=load_profiles(states_beside(path), split, trust_unverified=False))
    top = spec.get("top")
    return found if top is None else replace(found, items=found.items[:, :top], score=found.score[:, :top])


def learns_states(cell: CellSpec) -> bool:
    """Whether a cell that learns lists learns vectors of their maker, too."""
    distill = cell.student.distill
    return distill is not None and distill.also is not None


def states_beside(path: str | Path) -> Path:
    """Where the states of the recommender lie whose lists are at ``path``."""
    return Path(path).with_suffix(".states.parquet")


def folder(results: Path) -> Path:
    """Where list files lie."""
    return results / "cache" / "lists"


def _resolve_text(request: Request) -> dict[str, Any]:
    return {"spec": request.spec.canonical()}


def _build_text(results: Path, cell: CellSpec, split: Split) -> Path:
    from profiles.lists import build_text_lists
    from profiles.spec import TeacherSpec
    from recbole_kd.benchmark.rooms import profiles_folder, progress
    from recbole_kd.data.load import load_item_texts

    assert cell.lists is not None
    spec = TeacherSpec.model_validate(cell.teacher)
    with wait_lock(results, "profiles"):
        return build_text_lists(
            spec,
            split,
            load_item_texts(cell.dataset),
            profiles_folder(results),
            folder(results),
            top=cell.lists["spec"]["top"],
            exclude_seen=cell.lists["spec"]["exclude_seen"],
            domain=cell.dataset.domain,
            progress=progress(f"profiles of {spec.name}", "users"),
        )


def _resolve_file(request: Request) -> dict[str, Any]:
    from recbole_kd.benchmark.rooms import digest_of

    path = Path(request.spec.path)
    if not path.is_file():
        raise ProfileError(f"{request.asked_at}: file of teacher lists '{path}' does not exist")
    return {"spec": request.spec.canonical(), "sha256": digest_of(path)}


def _build_file(results: Path, cell: CellSpec, split: Split) -> Path:
    from recbole_kd.benchmark.rooms import check_given

    assert cell.lists is not None
    path = Path(cell.lists["spec"]["path"])
    check_given(cell, path)
    return path


def _resolve_recommender(request: Request) -> dict[str, Any]:
    """The plain cell of the teacher: its address stands for everything that its scores depend on."""
    from recbole_kd.benchmark import rooms
    from recbole_kd.benchmark.resolve import check_part
    from recbole_kd.training.spec import StudentSpec

    spec, mark = request.spec, request.asked_at
    ours = [name.removesuffix("KD") for name in properties.names("model") if name.endswith("KD")]
    if spec.backbone not in ours:
        raise SpecError(
            f"{mark}: lists.backbone '{spec.backbone}' is unknown{did_you_mean(spec.backbone, ours)}"
        )
    model = rooms.model_defaults(spec.backbone, False, mark)
    for part in ("hparams", "train"):
        given = _marked(getattr(spec, part), mark)
        check_part(part, given, model, f"{spec.backbone} {part} key")
        over = MarkedDict(mark)
        over.put(part, given, mark)
        model = merge(model, over)
    teacher = CellSpec(
        dataset=request.dataset,
        dataset_source=request.dataset_source,
        student=validated(StudentSpec, model, f"{spec.backbone}"),
        teacher=None,
        teacher_source=None,
        teacher_file=None,
        seed=spec.seed,
    )
    return {"spec": spec.canonical(), "address": teacher.address(), "cell": plain(teacher.canonical())}


def _marked(values: dict[str, Any], mark: Mark) -> MarkedDict:
    result = MarkedDict(mark)
    for key, value in values.items():
        result.put(key, value, mark)
    return result


def _build_recommender(results: Path, cell: CellSpec, split: Split) -> Path:
    """Train the teacher as a plain cell, unless its run exists, and rank the items for every train user.

    What was made from its run is made again when the run was replaced at its own address; it outlives a run
    that was deleted.
    """
    from recbole_kd.benchmark import rundir
    from recbole_kd.benchmark.derived import made_from
    from recbole_kd.benchmark.recommender_lists import write_lists, write_states
    from recbole_kd.strict import digest

    assert cell.lists is not None
    spec, address = cell.lists["spec"], cell.lists["address"]
    key = digest({name: spec[name] for name in ("top", "exclude_seen")} | {"teacher": address})
    path = folder(results) / f"{spec['backbone']}-{key}.parquet"
    states = states_beside(path) if learns_states(cell) else None
    run = rundir.run_path(results, address)
    if not run.exists() and path.is_file() and (states is None or states.is_file()):
        return path
    teacher = CellSpec.model_validate(cell.lists["cell"])
    if not rundir.whole(results, address):
        _train(results, teacher, address)
    with wait_lock(results, f"lists-{key}"):
        if not made_from(path, run):
            write_lists(path, run, teacher, split, top=spec["top"], exclude_seen=spec["exclude_seen"])
        if states is not None and not made_from(states, run):
            write_states(states, run, teacher, split)
    return path


def _train(results: Path, teacher: CellSpec, address: str) -> None:
    from recbole_kd.benchmark.artefacts import Artefacts, split_file
    from recbole_kd.benchmark.executor import BUSY, DONE, EXISTS, CellTask, run_cell

    name = teacher.student.model
    sys.stderr.write(f"lists: training the teacher {name} on {teacher.dataset.name}\n")
    files = Artefacts(split_file(results, teacher), None, None)
    label = CellLabel(dataset=teacher.dataset.name, backbone=name, variant="plain", seed=teacher.seed)
    task = CellTask.build(results, address, label, teacher, files, "cpu", ("NDCG@10", "Recall@10", "MRR"))
    # The teacher may be a cell of the sweep itself, which a worker is at.
    while (outcome := run_cell(task)).status == BUSY:
        time.sleep(_BUSY_PAUSE)
    if outcome.status not in (DONE, EXISTS):
        raise ProfileError(
            f"lists: the teacher {name} could not be trained ({outcome.error}); run the same command again"
        )


SOURCES: dict[str, Source] = {
    "text": Source(TextLists, True, _resolve_text, _build_text),
    "recommender": Source(RecommenderLists, False, _resolve_recommender, _build_recommender),
    "file": Source(FileLists, False, _resolve_file, _build_file),
}
"""name -> source; a new one: a spec, two functions, a line here and ``properties/lists/<name>.yaml``."""
