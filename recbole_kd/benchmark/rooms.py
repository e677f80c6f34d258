"""The runner's view of the other rooms: names to validated specs and digests of what they read."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from recbole_kd.baselines import WEIGHTS
from recbole_kd.benchmark import prefix, properties
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge
from recbole_kd.benchmark.spec import ITEMS_SOURCE, CellSpec, InputsSpec, VariantSpec, teacher_content
from recbole_kd.benchmark.validate import validated
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.errors import AbsentDataError, DataError, ProfileError, SpecError
from recbole_kd.objectives.registry import OBJECTIVES
from recbole_kd.strict import Strict, digest
from recbole_kd.training.spec import DistillSpec, PretrainSpec, StudentSpec, TrainSpec

if TYPE_CHECKING:
    from profiles.spec import TeacherSpec
    from recbole_kd.data.profile_table import ProfileTable
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import Split


class ModelFile(Strict):
    """``properties/model/<Name>.yaml``: the one place of a model's defaults."""

    model: str
    hparams: dict[str, Any]
    train: TrainSpec
    distill: DistillSpec | None = Field(None, description="only in <Backbone>KD.yaml")
    inputs: InputsSpec | None = Field(None, description="vectors that the model reads, if any")
    pretrain: PretrainSpec | None = Field(None, description="only of models that can be pre-trained")


@cache
def file_digest(path: str, stamp: tuple[int, int]) -> str:
    """SHA-256 of a file; ``stamp`` (size, time) makes an altered file a new key."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read once per process and version of the file."""
    stat = os.stat(path)
    return file_digest(str(path), (stat.st_size, stat.st_mtime_ns))


def dataset(
    name: str, asked_at: object = None, over: MarkedDict | None = None
) -> tuple[DatasetSpec, dict[str, str]]:
    """Spec of a dataset, with ``over`` laid on its YAML, and the digests of its atomic files.

    Raises
    ------
    SpecError, DataError
        Unknown dataset or domain, bad YAML, or the files are not there or lack a column that the YAML names.
    """
    from profiles.prompts import load_domain

    data = properties.load("dataset", name, asked_at)
    data = data if over is None else merge(data, over)
    spec = validated(DatasetSpec, data, "dataset")
    with _placed(data.where("domain"), "dataset: domain"):
        load_domain(spec.domain)
    return spec, dataset_source(spec)


def dataset_source(spec: DatasetSpec) -> dict[str, str]:
    """Digests of the atomic files that ``spec`` reads (``inter``, and ``item`` where it has texts)."""
    from recbole_kd.data.load import check_headers

    folder = spec.folder()
    roles = ["inter", "item"] if spec.text is not None else ["inter"]
    paths = {role: folder / f"{spec.name}.{role}" for role in roles}
    lacking = [path for path in paths.values() if not path.is_file()]
    if lacking:
        raise (AbsentDataError if len(lacking) == len(paths) else DataError)(
            f"{lacking[0]}: dataset '{spec.name}' has no such file; put the RecBole atomic files there, "
            f"or set RECBOLE_KD_DATA to the folder that holds '{spec.name}/'"
        )
    check_headers(spec)
    return {role: digest_of(path) for role, path in paths.items()}


def _model_file(name: str, asked_at: object) -> MarkedDict:
    if name.startswith(prefix.MARK) or (name not in properties.names("model") and name in prefix.available()):
        data = _recbole_model(name.removeprefix(prefix.MARK), asked_at)
    else:
        data = properties.load("model", name, asked_at)
    validated(ModelFile, data, f"model '{name}'")
    return data


def _recbole_model(name: str, asked_at: object) -> MarkedDict:
    """Defaults of a model that runs under RecBole's own Trainer."""
    train = properties.load("model", "_recbole", asked_at)
    result = MarkedDict(train.mark)
    result.put("model", prefix.MARK + name, train.mark)
    result.put("hparams", prefix.hparams_of(name, asked_at), train.mark)
    result.put("train", train, train.mark)
    return result


def can_be_distilled(backbone: str) -> bool:
    """Whether a backbone has a KD form; a RecBole model under its own Trainer is a plain baseline only."""
    return f"{backbone}KD" in properties.names("model")


def model_inputs(backbone: str, asked_at: object = None) -> InputsSpec | None:
    """Vectors that a model reads by itself; ``None`` for nearly all."""
    found = _model_file(backbone, asked_at).get("inputs")
    return None if found is None else InputsSpec.model_validate(found)


def model_pretraining(backbone: str, asked_at: object = None) -> PretrainSpec | None:
    """How a model is pre-trained by itself; ``None`` for nearly all."""
    found = _model_file(backbone, asked_at).get("pretrain")
    return None if found is None else PretrainSpec.model_validate(found)


def model_defaults(backbone: str, distilled: bool, asked_at: object = None) -> MarkedDict:
    """Defaults of a backbone, or of its distilled form, as StudentSpec-shaped data."""
    data = _model_file(f"{backbone}KD" if distilled else backbone, asked_at)
    if distilled and data.get("distill") is None:
        raise SpecError(f"{data.mark}: model '{data['model']}' needs a 'distill' section to take a teacher")
    result = MarkedDict(data.mark)
    for key in ("model", "hparams", "train"):
        result.put(key, data[key], data.where(key))
    result.put("distill", data["distill"] if distilled else None, data.where("distill"))
    return result


@dataclass(frozen=True)
class Teacher:
    """A teacher as a cell sees it.

    Attributes
    ----------
    canonical : dict
        TeacherSpec, or ``{"trust_unverified": bool}`` for an embedding file.
    source : dict of str to str
        What it reads -> SHA-256.
    file : str or None
        Path of an embedding file that exists already.
    """

    canonical: dict[str, Any]
    source: dict[str, str]
    file: str | None

    def key(self) -> str:
        """Equal for teachers that differ in nothing but their name."""
        return digest([teacher_content(self.canonical), self.source])


def teacher(variant: VariantSpec, domain: str, asked_at: object = None) -> Teacher | None:
    """Teacher of a variant, or ``None`` for a plain backbone.

    Raises
    ------
    SpecError, ProfileError
        Unknown profile, bad YAML, or the embedding file is not there.
    """
    if variant.embeddings is not None:
        path = Path(variant.embeddings)
        if not path.is_file():
            raise ProfileError(f"{asked_at}: embedding file '{path}' does not exist")
        return Teacher(
            {"trust_unverified": bool(variant.trust_unverified)}, {"file": digest_of(path)}, str(path)
        )
    if variant.teacher is None:
        return None
    spec = teacher_spec(variant.teacher, variant.profile, asked_at)
    return Teacher(spec.canonical(), _read_by(spec, domain, asked_at), None)


def teacher_spec(name: str, over: dict[str, Any] | None, asked_at: object = None) -> TeacherSpec:
    """Read a profile YAML and lay ``over`` on it; ``over`` may exchange what the file ``extends``."""
    from profiles.spec import TeacherSpec, check_names

    base = (over or {}).get("extends")
    data = properties.load("profile", name, asked_at, base=base)
    if over:
        mark = asked_at if isinstance(asked_at, Mark) else data.mark
        given = over if isinstance(over, MarkedDict) else MarkedDict(mark, over)
        data = merge(data, given.without("extends"))
    return check_names(
        validated(TeacherSpec, data, f"profile '{name}'"), str(asked_at or f"profile '{name}'")
    )


def _read_by(spec: TeacherSpec, domain: str, asked_at: object) -> dict[str, str]:
    """Version and hash of the prompt in the words of the domain, and digests of weights of the user's."""
    from profiles.prompts import load_prompt

    prompt = load_prompt(spec.writer.prompt, spec.writer.domain or domain).version
    return {"prompt": prompt, **weights_source(spec.canonical(), asked_at)}


def student_source(student: StudentSpec, asked_at: object = None) -> dict[str, str] | None:
    """Digest of the weights that a model of its own reads, if they lie in a file or folder of the user's.

    Raises
    ------
    SpecError
        They are not there.
    """
    from profiles.content import digest_of_weights

    key = WEIGHTS.get(student.model)
    if key is None or student.hparams.get(key) is None:
        return None
    with _placed(asked_at, f"hparams.{key}"):
        found = digest_of_weights(str(student.hparams[key]))
    return None if found is None else {f"{key} weights": found}


def weights_source(parts: Mapping[str, Any], asked_at: object = None) -> dict[str, str]:
    """Digests of the weights of a writer and an encoder that lie in files or folders of the user's.

    Raises
    ------
    SpecError
        They are not there.
    """
    from profiles.content import weights_of

    with _placed(asked_at, None):
        return weights_of(parts)


def check_weights(cell: CellSpec) -> None:
    """Refuse models of the user's whose weights are not those that the cell was planned with.

    Raises
    ------
    SpecError
        A file or folder is gone.
    ProfileError
        It has other weights now.
    """
    inputs, ranker = cell.inputs or {}, cell.ranker or {"spec": {}, "source": {}}
    read: list[tuple[dict[str, Any], dict[str, str]]] = [
        (cell.teacher or {}, cell.teacher_source or {}),
        (inputs.get("items", {}), inputs.get(ITEMS_SOURCE, {})),
        (inputs["users"]["spec"], inputs["users"]["source"]) if "users" in inputs else ({}, {}),
        ({"writer": ranker["spec"].get("llm") or {}}, ranker["source"]),
    ]
    found = [(weights_source(parts), source) for parts, source in read]
    found.append((student_source(cell.student) or {}, cell.student_source or {}))
    for now, planned in found:
        for role, value in now.items():
            if planned.get(role) != value:
                raise ProfileError(
                    f"the {role} are not those that the run was planned with; put them back, or run the "
                    "experiment again: it plans a new run"
                )


@contextmanager
def _placed(asked_at: object, key: str | None) -> Iterator[None]:
    """Put the place before an error that does not know it."""
    try:
        yield
    except SpecError as error:
        place = [str(part) for part in (asked_at, key) if part is not None]
        raise SpecError(": ".join([*place, str(error)])) from error


def teacher_table(results: Path, cell: CellSpec, split: Split) -> tuple[Path, ProfileTable | TeacherLists]:
    """Build (or find) the embedding file of a cell, or its lists, and check it against the split.

    Raises
    ------
    ProfileError, LeakageError
        The file does not fit the dataset; the message names the row.
    """
    from recbole_kd.benchmark import teacher_lists
    from recbole_kd.data.profile_table import load_profiles

    if cell.lists is not None:
        return teacher_lists.build(results, cell, split)
    assert cell.teacher is not None
    if cell.teacher_file is not None:
        path = Path(cell.teacher_file)
        check_given(cell, path)
    else:
        check_weights(cell)
        # One builder at a time: teachers share their texts, and texts are bought once.
        with wait_lock(results, "profiles"):
            path = _build_teacher(profiles_folder(results), cell, split)
    return path, load_profiles(path, split, trust_unverified=bool(cell.teacher.get("trust_unverified")))


def check_given(cell: CellSpec, path: str | Path | None = None) -> None:
    """Refuse a file of the user's that is not the one that a cell was planned with.

    Parameters
    ----------
    cell : CellSpec
        The address covers the digests of its embedding file and of its file of lists.
    path : str, Path or None
        Where the file is that is about to be read; None = all of them where the cell says.

    Raises
    ------
    ProfileError
        The file is gone, or has another content.
    """
    given = []
    if cell.lists is not None and "sha256" in cell.lists:
        lists = cell.lists["spec"]["path"]
        given.append(("file of teacher lists", lists if path is None else path, cell.lists["sha256"]))
    if cell.teacher_file is not None and (path is None or cell.lists is None):
        source = cell.teacher_source or {}
        given.append(("embedding file", path or cell.teacher_file, source.get("file")))
    for what, file, planned in given:
        mend = "put it back, or run the experiment again: it plans a new run"
        if not Path(file).is_file():
            raise ProfileError(f"{file}: the {what} that the run was planned with is gone; {mend}")
        if digest_of(Path(file)) != planned:
            raise ProfileError(f"{file}: not the {what} that the run was planned with; {mend}")


def confidence_source(student: StudentSpec, asked_at: object = None) -> dict[str, str]:
    """SHA-256 of the file of confidences that a student weighs its users by, if it does.

    Raises
    ------
    ProfileError
        There is no such file.
    """
    if student.distill is None or student.distill.confidence is None:
        return {}
    path = Path(student.distill.confidence)
    if not path.is_file():
        raise ProfileError(
            f"{asked_at}: distill.confidence: no file '{path}'; write it with "
            "'run_benchmark.py profiles audit DATASET PROFILE --out FILE'"
        )
    return {"confidence": digest_of(path)}


def profiles_folder(results: Path) -> Path:
    """Where the embedding files and the text store of a results folder lie."""
    return results / "cache" / "profiles"


def _build_teacher(folder: Path, cell: CellSpec, split: Split) -> Path:
    from profiles.attributes import build_attributes
    from profiles.build import build_teacher
    from profiles.spec import TeacherSpec
    from recbole_kd.data.load import load_item_texts

    spec = TeacherSpec.model_validate(cell.teacher)
    texts = load_item_texts(cell.dataset)
    written = progress(f"profiles of {spec.name}", "users")
    if learns_attributes(cell):
        return build_attributes(spec, split, texts, folder, domain=cell.dataset.domain, progress=written)
    return build_teacher(
        spec,
        split,
        texts,
        folder,
        domain=cell.dataset.domain,
        progress=written,
        encode_progress=progress(f"vectors of {spec.name}", "texts"),
    )


def learns_attributes(cell: CellSpec) -> bool:
    """Whether the student predicts what its teacher's texts name, instead of their vectors."""
    distill = cell.student.distill
    return distill is not None and OBJECTIVES[distill.objective].kind == "attributes"


def progress(what: str, unit: str) -> Callable[[int, int], None]:
    """Print how far the building of ``what`` is, at most every ten seconds.

    What was there at the first call does not count for the pace.
    """
    first: tuple[float, int] | None = None
    said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal first, said
        now = time.monotonic()
        first = first or (now, done)
        if now - said < 10 or not done:
            return
        said = now
        new = done - first[1]
        left = f", {(now - first[0]) / new * (total - done):.0f} s left" if new else ""
        sys.stderr.write(f"{what}: {done}/{total} {unit}{left}\n")

    return say


def control(name: str, variant: VariantSpec, asked_at: object = None) -> VariantSpec | None:
    """The control that belongs to a variant, or ``None`` where it needs none.

    Only profiles that a language model wrote need controls, those of a teacher or those that a system reads:
    ``template`` does the same without a language model, a placebo such as ``shuffled`` gives its vectors to
    the wrong users.

    Raises
    ------
    SpecError
        No profile of that name.
    """
    if variant.teacher is not None:
        given = _control(name, variant.teacher, variant.profile, asked_at)
        return None if given is None else variant.model_copy(update=given)
    read = variant.inputs
    if read is None or read.teacher is None:
        return None
    given = _control(name, read.teacher, read.profile, asked_at)
    return None if given is None else variant.model_copy(update={"inputs": read.model_copy(update=given)})


def _control(
    name: str, teacher: str, profile: dict[str, Any] | None, asked_at: object
) -> dict[str, Any] | None:
    """``teacher`` and ``profile`` of the control ``name``; ``None`` where no language model wrote."""
    spec = teacher_spec(teacher, profile, asked_at)
    if not spec.uses_llm or spec.is_placebo:
        return None
    if teacher_spec(name, None, asked_at).is_placebo:
        return {"teacher": name, "profile": {**(profile or {}), "extends": teacher}}
    return {"teacher": name, "profile": None}
