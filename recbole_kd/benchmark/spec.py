"""What an experiment YAML may say, and the frozen cell that it resolves into."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from profiles.content import content_of
from recbole_kd.baselines.llm.spec import CandidatesSpec
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.strict import Strict, digest
from recbole_kd.training.spec import DiagnosticsSpec, StudentSpec

# Raised when the same cell would give other numbers: every older run then gets another address.
CELL_FORMAT = 4
ITEMS_SOURCE = "items_source"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+=,\[\]-]*$"
# Folders of the store itself, below the results.
_STORE = ("cache", "runs")
# Fields of a dataset that say where it comes from and what it is called; its content has digests.
_DATASET_LABELS = ("name", "source", "path", "synthetic")
_DATASET_TEXT = ("domain", "text")
_TEACHER_LABELS = ("name", "description")


class InputsSpec(Strict):
    """Vectors that a system itself reads."""

    items: str | None = Field(None, description="a file of properties/items")
    teacher: str | None = Field(None, description="a file of properties/profile")
    profile: dict[str, Any] | None = Field(None, description="what differs from the teacher's file")
    attributes: bool | None = Field(None, description="keys and values of the items, as words")


class VariantSpec(Strict):
    """One way to train every backbone: with or without a teacher, and what differs from the defaults."""

    teacher: str | None = Field(None, description="a file of properties/profile; none = plain backbone")
    embeddings: str | None = Field(
        None, description="an embedding file that exists already, instead of a teacher"
    )
    trust_unverified: bool | None = Field(
        None, description="accept an .npz that cannot prove what its vectors saw"
    )
    lists: dict[str, Any] | None = Field(
        None, description="a source of ranked lists (properties/lists) and what differs from its file"
    )
    system: str | None = Field(None, description="a file of properties/system, laid on the backbone")
    ranker: str | None = Field(
        None, description="a file of properties/ranker; it re-ranks the experiment's candidates"
    )
    llm: dict[str, Any] | None = Field(None, description="what differs from the model in the ranker's file")
    params: dict[str, Any] | None = Field(None, description="what differs from the system's or ranker's file")
    inputs: InputsSpec | None = Field(
        None, description="other vectors than the system's file names; of a ranker: whose profiles it reads"
    )
    pretrain: dict[str, Any] | None = Field(
        None, description="what differs from the pre-training in the system's file; datasets: [] = none"
    )
    backbones: list[str] | None = Field(None, description="only these; none = all of the experiment")
    hparams: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    distill: dict[str, Any] | None = None
    profile: dict[str, Any] | None = Field(None, description="what differs from the teacher's file")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = Field(
        None, description="dotted path -> values, one variant each"
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> VariantSpec:
        if self.teacher is not None and self.embeddings is not None:
            raise ValueError("give 'teacher' or 'embeddings', not both")
        if self.profile is not None and self.teacher is None:
            raise ValueError("'profile' changes a teacher, but no 'teacher' is named")
        if self.trust_unverified is not None and self.embeddings is None:
            raise ValueError("'trust_unverified' belongs to 'embeddings'")
        if self.llm is not None and self.ranker is None:
            raise ValueError("'llm' changes a ranker's model, but no 'ranker' is named")
        return self

    @model_validator(mode="after")
    def _ranker_alone(self) -> VariantSpec:
        trains = ("teacher", "embeddings", "lists", "system", "pretrain", "hparams", "train", "distill")
        given = [name for name in trains if getattr(self, name) is not None]
        if self.ranker is not None and given:
            raise ValueError(f"a ranker takes 'params', 'llm' and 'inputs', not '{given[0]}'")
        return self

    @property
    def distilled(self) -> bool:
        """Whether the student has a teacher."""
        return self.teacher is not None or self.embeddings is not None or self.lists is not None


class WhereSpec(Strict):
    """Which cells an override is for; all given conditions must hold."""

    dataset: str | None = None
    backbone: str | None = None
    variant: str | None = None


class OverrideSpec(Strict):
    """Values for some cells, laid over the defaults and under the variant's own values."""

    where: WhereSpec
    hparams: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    distill: dict[str, Any] | None = None
    pretrain: dict[str, Any] | None = Field(None, description="passed by where nothing is pre-trained")


class ExperimentSpec(Strict):
    """A sweep: datasets x backbones x variants x seeds."""

    experiment: str = Field(pattern=NAME, description="folder name of the tables")
    description: str | None = None
    datasets: list[str] = Field(min_length=1)
    dataset: dict[str, Any] | None = Field(
        None, description="laid over every dataset YAML, e.g. another split"
    )
    backbones: list[str] = Field(min_length=1)
    variants: dict[str, VariantSpec] = Field(min_length=1)
    baseline: str = Field(description="the variant that the others are compared with")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    metrics: list[str] = Field(min_length=1)
    controls: list[str] = Field(description="added where a teacher is a language model; [] or none = off")
    diagnostics: DiagnosticsSpec
    candidates: CandidatesSpec
    overrides: list[OverrideSpec] | None = None

    @field_validator("experiment")
    @classmethod
    def _no_folder_of_the_store(cls, value: str) -> str:
        # Some file systems do not tell cases apart.
        if value.lower() in _STORE:
            raise ValueError("the store has a folder of that name; choose another")
        return value

    @field_validator("variants", mode="before")
    @classmethod
    def _empty_variant(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if value[key] is None:
                    value[key] = {}
        return value

    @field_validator("controls", mode="before")
    @classmethod
    def _no_controls(cls, value: Any) -> Any:
        return [] if value in (None, "none") else value

    @field_validator("datasets", "backbones", "seeds", "metrics")
    @classmethod
    def _no_repeats(cls, value: list[Any]) -> list[Any]:
        repeated = sorted({str(v) for v in value if value.count(v) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is listed twice")
        return value


class CellLabel(Strict):
    """How a cell is called in tables; no part of its address."""

    dataset: str
    backbone: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.backbone} {self.variant} seed {self.seed}"


class CellSpec(Strict):
    """Everything that decides the numbers of one run.

    The address covers what was read (digests of the files), what is done with it and the seed. It
    does not cover names: of the dataset, its folder, the variant, the experiment.
    """

    dataset: DatasetSpec
    dataset_source: dict[str, str] = Field(description="file role -> SHA-256")
    student: StudentSpec
    student_source: dict[str, str] | None = Field(
        None, description="weights that the student reads -> digest"
    )
    teacher: dict[str, Any] | None = Field(description="canonical TeacherSpec")
    teacher_source: dict[str, str] | None = Field(description="what the teacher reads -> SHA-256")
    teacher_file: str | None = Field(description="embedding file that exists already")
    lists: dict[str, Any] | None = Field(None, description="ranked lists to learn from: spec and source")
    inputs: dict[str, Any] | None = Field(None, description="vectors that the system reads, see inputs.py")
    ranker: dict[str, Any] | None = Field(
        None, description="re-ranks candidates of another cell, whose student is 'student'; see rankers.py"
    )
    seed: int = Field(ge=0, description="training stream; the split has its own in dataset.split")

    def address(self) -> str:
        """Content address of the run, 16 hex digits."""
        dataset = self.dataset.canonical()
        source = dict(self.dataset_source)
        for name in _DATASET_LABELS:
            dataset.pop(name)
        if self.teacher is None and self.inputs is None and self.ranker is None:
            source.pop("item", None)
            for name in _DATASET_TEXT:
                dataset.pop(name)
        teacher = None
        if self.teacher is not None:
            teacher = {"spec": teacher_content(self.teacher), "source": self.teacher_source}
        content = {"dataset": dataset, "source": source, "teacher": teacher, "seed": self.seed}
        if self.inputs is not None:
            content["inputs"] = _inputs_content(self.inputs)
        if self.student_source:
            content["student_source"] = self.student_source
        if self.lists is not None:
            content["lists"] = lists_content(self.lists)
        if self.ranker is not None:
            content["ranker"] = ranker_content(self.ranker)
        student = self.student.canonical()
        if student["distill"] is not None:
            # Its content stands in teacher_source.
            student["distill"].pop("confidence")
        return digest({"format": CELL_FORMAT, **content, "student": student})


def teacher_content(teacher: dict[str, Any]) -> dict[str, Any]:
    """What of a canonical TeacherSpec decides its vectors."""
    content = {key: value for key, value in teacher.items() if key not in _TEACHER_LABELS}
    for part in ("writer", "encoder"):
        if part in content:
            content[part] = content_of(content[part])
    return content


def _inputs_content(inputs: dict[str, Any]) -> dict[str, Any]:
    """What of a cell's inputs decides their vectors."""
    content: dict[str, Any] = {}
    if "items" in inputs:
        content["items"] = teacher_content(inputs["items"])
        if ITEMS_SOURCE in inputs:
            content[ITEMS_SOURCE] = inputs[ITEMS_SOURCE]
    if "users" in inputs:
        users = inputs["users"]
        content["users"] = {"spec": teacher_content(users["spec"]), "source": users["source"]}
    if "attributes" in inputs:
        content["attributes"] = inputs["attributes"]
    if "pretrain" in inputs:
        pretrain = inputs["pretrain"]
        content["pretrain"] = {**pretrain, "corpora": [corpus_content(c) for c in pretrain["corpora"]]}
    return content


def corpus_content(corpus: dict[str, Any]) -> dict[str, Any]:
    """What of a dataset decides what pre-training sees of it: its content, not where it lies."""
    dataset = {key: value for key, value in corpus["dataset"].items() if key not in _DATASET_LABELS}
    return {"dataset": dataset, "source": corpus["source"]}


def lists_content(lists: dict[str, Any]) -> dict[str, Any]:
    """What of a cell's lists decides them: the teacher's address for its cell, not where a file lies."""
    spec = {key: value for key, value in lists["spec"].items() if key != "path"}
    return {key: value for key, value in lists.items() if key != "cell"} | {"spec": spec}


def ranker_content(ranker: dict[str, Any]) -> dict[str, Any]:
    """What of a cell's ranker decides its numbers: not what makes its model faster."""
    spec = dict(ranker["spec"])
    if spec["llm"] is not None:
        spec["llm"] = content_of(spec["llm"])
    return {**ranker, "spec": spec}


class PlannedCell(Strict):
    """A labelled cell of an experiment and the address of its run."""

    label: CellLabel
    spec: CellSpec
    cell: str
