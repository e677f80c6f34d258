"""What a dataset YAML may say (``properties/dataset/*.yaml``), and how it is read."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

DATA_ROOT_VARIABLE = "RECBOLE_KD_DATA"
PROPERTIES = Path(__file__).resolve().parents[2] / "properties" / "dataset"


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


class SplitSpec(Strict):
    """Which interactions are learned from, validated on and tested on."""

    protocol: str = Field(description="leave-one-out or temporal (see recbole_kd.data.split.PROTOCOLS)")
    seed: int = Field(description="data stream: drawing of validation users")
    quantile: float = Field(gt=0, lt=1, description="temporal: share of interactions before the cut")
    valid_user_share: float = Field(gt=0, lt=1, description="temporal: share of train users moved to valid")


class DatasetSpec(Strict):
    """A dataset in RecBole atomic files and its protocol."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="file stem: <name>.inter, <name>.item")
    domain: Literal["movies", "beauty", "games", "generic"] = Field(description="vocabulary of the prompts")
    source: Literal["recbole", "path"]
    path: str | None = Field(description="folder of the atomic files, for source: path")
    fields: FieldSpec
    text: TextSpec | None
    filter: FilterSpec
    split: SplitSpec
    max_item_list_length: int = Field(ge=2)

    @model_validator(mode="after")
    def _source_and_path_agree(self) -> DatasetSpec:
        if self.source == "path" and not self.path:
            raise ValueError("source: path needs path, the folder that holds the atomic files")
        if self.source == "recbole" and self.path:
            raise ValueError("path needs source: path")
        return self

    def folder(self) -> Path:
        """Folder of the atomic files.

        A relative ``path`` lies in the folder named by the environment variable
        ``RECBOLE_KD_DATA``, or in ``data/`` of the current folder.
        """
        if self.source == "recbole":
            return packaged_folder(self.name)
        path = Path(self.path or "").expanduser()
        return path if path.is_absolute() else Path(os.environ.get(DATA_ROOT_VARIABLE) or "data") / path


def packaged_folder(name: str) -> Path:
    """Folder of a dataset that the recbole package brings along (found without importing recbole)."""
    from importlib.util import find_spec

    spec = find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise SpecError("source: recbole needs the package recbole==1.2.1, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "dataset_example" / name


def read_dataset_spec(source: str | Path, overrides: Mapping[str, Any] | None = None) -> DatasetSpec:
    """Read a dataset YAML.

    Parameters
    ----------
    source : path of a YAML file, or the name of one in ``properties/dataset``
    overrides : mapping, optional
        Values that replace those of the file; nested mappings are merged.

    Raises
    ------
    SpecError
        Missing file, bad YAML, unknown key (with the nearest known one), bad value.
    """
    path = Path(source)
    if not path.is_file():
        named = PROPERTIES / f"{source}.yaml"
        if not named.is_file():
            known = ", ".join(sorted(p.stem for p in PROPERTIES.glob("*.yaml")))
            raise SpecError(f"{source}: no such dataset file; give a path or one of: {known}")
        path = named
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: expected 'key: value' lines")
    return parse_dataset_spec(_merge(raw, overrides or {}), str(path))


def parse_dataset_spec(raw: Mapping[str, Any], where: str) -> DatasetSpec:
    """Validate ``raw``; ``where`` names it in errors."""
    try:
        return DatasetSpec.model_validate(dict(raw))
    except ValidationError as error:
        raise SpecError(f"{where}: {_first_problem(error)}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    if over.get("path") and "source" not in over and "source" in merged:
        merged["source"] = "path"
    return merged


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(p) for p in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    model: Any = DatasetSpec
    for part in problem["loc"][:-1]:
        annotation = model.model_fields[str(part)].annotation
        options = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        model = options[0]
    near = difflib.get_close_matches(str(problem["loc"][-1]), list(model.model_fields), n=1, cutoff=0)
    return f"unknown key '{place}'; did you mean '{near[0]}'?"
