"""What the section ``study`` of an experiment YAML may say (docs/studies.md)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from recbole_kd.strict import Strict

X = float | str
"""A place on the horizontal axis: a number, or a name where places have no distance."""


class AxisSpec(Strict):
    """The horizontal axis."""

    label: str
    log: bool | None = Field(None, description="logarithmic")


class SeriesSpec(Strict):
    """A variant at several places of the axis: one variant ``<series>@<x>`` for each."""

    x: list[X] = Field(min_length=1)
    variant: dict[str, Any] = Field(description="as under 'variants'; $x stands for the place")
    values: list[Any] | None = Field(None, description="what $x becomes at each place; none = the place")
    weighted: bool | None = Field(
        None, description="users weighted by the grounding of the profile that they were given"
    )
    also: dict[str, X] | None = Field(
        None, description="variants that stand elsewhere and belong to the series: name -> place"
    )

    @model_validator(mode="after")
    def _as_many(self) -> SeriesSpec:
        if self.values is not None and len(self.values) != len(self.x):
            raise ValueError(f"'values' has {len(self.values)} entries, 'x' has {len(self.x)}")
        return self


class PartSpec(Strict):
    """The experiment once more with something else: another split, size, data set."""

    x: X | list[X] = Field(description="place on the axis; of several, one part each")
    over: dict[str, Any] = Field(description="laid over the experiment; $x stands for the place")


class StepSpec(Strict):
    """A file to make besides the runs."""

    of: Any = Field(None, description="what the step wants to know")
    parts: list[str] | None = Field(None, description="shell patterns: only for these places of 'parts'")


class KnownSpec(Strict):
    """Something that must come out, checked on every page."""

    case: str = Field(description="a name of analysis/studies/known.py, or of the study's own file")
    of: list[str] = Field(min_length=1, description="variants or series that it is about")
    why: str = Field(description="what must hold, in words")


class KeepSpec(Strict):
    """What is left of a study; shell patterns, everything where nothing is said."""

    variants: list[str] | None = None
    series: list[str] | None = None
    parts: list[str] | None = Field(None, description="by place on the axis")


class NeedSpec(Strict):
    """What must be at hand for a variant; without it the variant is left out and the page says so."""

    variable: str | None = Field(None, description="environment variable that must be set, such as a key's")
    folder: str | None = Field(None, description="folder that must exist, such as a model's")
    package: str | None = Field(None, description="Python package that must be installed")

    def lacking(self) -> str | None:
        """What is not there, in words."""
        if self.variable is not None and not os.environ.get(self.variable):
            return f"environment variable {self.variable} is not set"
        if self.folder is not None and not Path(self.folder).is_dir():
            return f"folder {self.folder} does not exist"
        if self.package is not None and find_spec(self.package) is None:
            return f"package {self.package} is not installed"
        return None


class StudySpec(Strict):
    """The section ``study``."""

    question: str
    x: AxisSpec | None = None
    profile: dict[str, Any] | None = Field(
        None, description="laid under 'profile' of every variant with a teacher: another encoder, say"
    )
    series: dict[str, SeriesSpec] | None = None
    parts: list[PartSpec] | None = None
    optional: list[str] | None = Field(
        None, description="datasets that are left out, and named on the page, where their files are not there"
    )
    needs: dict[str, NeedSpec] | None = Field(
        None, description="variants that are left out, and named on the page, without what they need"
    )
    figures: list[str] = Field(min_length=1, description="kinds of figures, in order")
    tables: list[str] = Field(min_length=1, description="kinds of tables, in order")
    known: list[KnownSpec] | None = None
    after: dict[str, StepSpec] | None = Field(None, description="files to make after running, by step")
    keep: KeepSpec | None = None
    settings: dict[str, Any] | None = Field(None, description="read by the study's own file")
    smoke: dict[str, Any] = Field(description="laid over the whole YAML by --smoke: the small cut")
