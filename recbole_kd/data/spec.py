"""What a dataset YAML may say (``properties/dataset/*.yaml``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recbole_kd.data.synthetic import SyntheticSpec, materialise
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

DATA_ROOT_VARIABLE = "RECBOLE_KD_DATA"


class FieldSpec(Strict):
    """Column names of the ``.inter`` file, without their type."""

    user: str
    item: str
    rating: str | None
    time: str


class TextSpec(Strict):
    """Columns of the ``.item`` file that describe an item in words."""

    title: str
    fields: tuple[str, ...] = Field(description="all text columns in prompt order, title included")

    @model_validator(mode="after")
    def _title_is_a_field(self) -> TextSpec:
        if self.title not in self.fields:
            raise ValueError(f"title '{self.title}' must also stand in fields {list(self.fields)}")
        return self


class FilterSpec(Strict):
    """Which interactions are kept.

    The rating filter comes first. The count filters look at users and items at the same time;
    with ``iterate`` they repeat until nothing changes (k-core, as RecBole), without they are
    applied once (as in the ECIR 2026 paper).
    """

    min_rating: float | None = Field(description="keep ratings >= this")
    min_user_inter: int = Field(ge=0)
    min_item_inter: int = Field(ge=0)
    iterate: bool


class HoldoutSpec(Strict):
    """Simulated newcomers: users who are held out and reveal only their first interactions."""

    share: float = Field(gt=0, lt=1, description="newcomers among the users with more than 'longest'")
    revealed: int = Field(ge=1, description="interactions that a newcomer reveals; the next is the target")
    longest: int = Field(ge=1, description="largest 'revealed' of a study: the same newcomers for all")
    learn: bool = Field(description="true: what is revealed is trained on and profiled; false: never seen")

    @model_validator(mode="after")
    def _fits(self) -> HoldoutSpec:
        if self.revealed > self.longest:
            raise ValueError(f"revealed {self.revealed} exceeds longest {self.longest}")
        return self


class SampleSpec(Strict):
    """A smaller train part; who is evaluated on what stays as it is (`recbole_kd.data.sample`)."""

    users: float | None = Field(None, gt=0, le=1, description="share of the train users")
    interactions: float | None = Field(
        None, gt=0, le=1, description="share of each user's train interactions, the latest"
    )
    seed: int = Field(description="which users; a larger share of the same seed holds a smaller one")

    @model_validator(mode="after")
    def _something(self) -> SampleSpec:
        if self.users is None and self.interactions is None:
            raise ValueError("give users or interactions, a share; without sample everything is trained on")
        return self


class SplitSpec(Strict):
    """Which interactions are learned from, validated on and tested on."""

    protocol: str = Field(
        description="leave-one-out, temporal or user-holdout (see recbole_kd.data.split.PROTOCOLS)"
    )
    seed: int = Field(description="data stream: drawing of validation users and of newcomers")
    quantile: float = Field(gt=0, lt=1, description="temporal: share of interactions before the cut")
    valid_user_share: float = Field(gt=0, lt=1, description="temporal: share of train users moved to valid")
    until: float | None = Field(
        None, gt=0, le=1, description="temporal: share of interactions after which nothing is looked at"
    )
    holdout: HoldoutSpec | None = Field(None, description="user-holdout: who is new, what of them is known")
    sample: SampleSpec | None = Field(None, description="any protocol: train on a share of the train part")

    @model_validator(mode="after")
    def _belongs(self) -> SplitSpec:
        if (self.protocol == "user-holdout") != (self.holdout is not None):
            raise ValueError("protocol: user-holdout and the section holdout belong together")
        if self.until is not None and (self.protocol != "temporal" or self.until <= self.quantile):
            raise ValueError("until belongs to protocol: temporal and must exceed quantile")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off, so that older splits and cells keep their addresses."""
        off = ("until", "holdout", "sample")
        return {k: v for k, v in handler(self).items() if v is not None or k not in off}


class MemorySpec(Strict):
    """Where and in how much memory a dataset past RAM is worked on; changes no number."""

    folder: str = Field(description="on a disk with room for about 100 bytes per interaction")
    budget_mb: int = Field(ge=64, description="for what is held at a time besides ids and tokens")


class DatasetSpec(Strict):
    """A dataset in RecBole atomic files and its protocol."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="file stem: <name>.inter, <name>.item"
    )
    domain: str = Field(description="vocabulary of the prompts, profiles/prompts/domains; looked up there")
    source: Literal["recbole", "path", "synthetic"]
    path: str | None = Field(description="folder of the atomic files, for source: path")
    synthetic: SyntheticSpec | None = Field(None, description="the generator's parameters")
    fields: FieldSpec
    text: TextSpec | None
    filter: FilterSpec
    split: SplitSpec
    max_item_list_length: int = Field(ge=2)
    memory: MemorySpec | None = Field(
        None, exclude=True, description="keep interactions in memory-mapped files; None = in RAM"
    )

    @model_validator(mode="after")
    def _source_and_path_agree(self) -> DatasetSpec:
        if self.source == "path" and not self.path:
            raise ValueError("source: path needs path, the folder that holds the atomic files")
        if self.source != "path" and self.path:
            raise ValueError("path needs source: path")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError("source: synthetic and the section synthetic belong together")
        return self

    def folder(self) -> Path:
        """Folder of the atomic files.

        A relative ``path`` lies in the folder named by the environment variable
        ``RECBOLE_KD_DATA``, or in ``data/`` of the current folder; a synthetic dataset is written
        below the same folder.
        """
        if self.source == "recbole":
            return packaged_folder(self.name)
        root = Path(os.environ.get(DATA_ROOT_VARIABLE) or "data")
        if self.synthetic is not None:
            return materialise(self.name, self.synthetic, root)
        path = Path(self.path or "").expanduser()
        return path if path.is_absolute() else root / path


def packaged_folder(name: str) -> Path:
    """Folder of a dataset that the recbole package brings along (found without importing recbole)."""
    from importlib.util import find_spec

    spec = find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise SpecError("source: recbole needs the package recbole==1.2.1, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "dataset_example" / name


def read_dataset_spec(name: str) -> DatasetSpec:
    """Read ``properties/dataset/<name>.yaml``, or the YAML file at the path ``name``.

    Raises
    ------
    SpecError
        Missing file, bad YAML, unknown key, bad value; with file and line.
    """
    # The YAML reader with line numbers lives with the runner and is needed by callers from Python only.
    from recbole_kd.benchmark import properties
    from recbole_kd.benchmark.validate import validated

    return validated(DatasetSpec, properties.load("dataset", name), "dataset")
