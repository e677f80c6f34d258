"""The numbers that the cost model starts from: each with value, unit, source, and whether it was measured."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

# Name -> (unit, meaning). The model's arithmetic is written for exactly these units.
PARAMETERS: dict[str, tuple[str, str]] = {
    "requests": ("request/user/day", "lists that a user asks for"),
    "days": ("day/month", "length of a month"),
    "profiles": ("profile/user", "profiles of one user"),
    "prompt_tokens": ("token/profile", "read by the model that writes a profile"),
    "answer_tokens": ("token/profile", "written by it"),
    "new_users": ("1/month", "share of the users who are new and need a first profile"),
    "refreshed": ("1/user", "share of the users whose profile is written anew when it is old"),
    "profile_age": ("day", "age at which a profile is written anew"),
    "written_off": ("month", "months over which the first profile of everybody is paid"),
    "list_input": ("USD/Mtoken", "API, list price of a prompt"),
    "list_output": ("USD/Mtoken", "API, list price of an answer"),
    "batch_factor": ("1", "price of the batch route over the list price"),
    "gpu_hour": ("USD/GPU-hour", "rent of a GPU"),
    "cpu_hour": ("USD/CPU-hour", "rent of a processor thread"),
    "gpu_prompt_rate": ("token/GPU-second", "prompts that a GPU reads, in batches"),
    "gpu_answer_rate": ("token/GPU-second", "answers that it writes, in batches"),
    "small_writer": ("CPU-second/profile", "a profile by SmolLM2-135M on a processor thread"),
    "encoder_rate": ("text/CPU-second", "texts that the encoder turns into vectors"),
    "text_bytes": ("byte/profile", "a stored text"),
    "vector_bytes": ("byte/profile", "a stored vector"),
    "copies": ("1", "replicas that are stored"),
    "storage": ("USD/GB/month", "price of storage"),
    "interactions": ("interaction/user", "what a student reads of one user in an epoch"),
    "epochs": ("epoch/training", "until early stopping"),
    "trainings": ("training/month", "how often the student is trained anew"),
    "train_rate": ("interaction/CPU-second", "training on a processor thread"),
    "gpu_train_rate": ("interaction/GPU-second", "training on a GPU"),
    "distil_factor": ("1", "seconds of an epoch with distillation over those of a plain one"),
    "distil_share": ("1", "share of the epochs that distil"),
    "catalogue_factor": ("1", "work per interaction or request over that of the measured catalogue"),
    "student_seconds": ("CPU-second/request", "a student's list, the whole catalogue scored"),
    "utilisation": ("1", "share of the time that servers on line have work, over a day with its peaks"),
    "standby_cpus": ("CPU", "processor threads for serving that always run"),
    "standby_gpus": ("GPU", "GPUs that always run where a model of one's own serves"),
    "loop_prompt_tokens": ("token/request", "read by a model that reranks a request's candidates"),
    "loop_answer_tokens": ("token/request", "written by it"),
    "lists_age": ("day", "age at which a list that a model made in advance is made anew"),
}
_SHARES = ("refreshed", "utilisation", "batch_factor", "distil_share", "new_users")


class Assumption(Strict):
    """One line of the YAML."""

    value: float = Field(ge=0)
    unit: str
    basis: Literal["measured", "assumed"]
    source: str = Field(min_length=1)
    range: tuple[float, float] | None = Field(None, description="what else is plausible")
    read: str | None = Field(None, description="exchanged for what this study's files say, where they do")

    @model_validator(mode="after")
    def _within(self) -> Assumption:
        if not math.isfinite(self.value):
            raise ValueError("value must be finite")
        if self.range is not None and not 0 <= self.range[0] <= self.value <= self.range[1]:
            raise ValueError(f"range {list(self.range)} must hold value {self.value:g}, from low to high")
        return self


@dataclass(frozen=True)
class Assumptions:
    """All lines, by name, in the order of `PARAMETERS`."""

    lines: Mapping[str, Assumption]

    def values(self) -> dict[str, float]:
        """What the model takes."""
        return {name: line.value for name, line in self.lines.items()}


def read_assumptions(data: Any, where: str) -> Assumptions:
    """Validate a mapping of name to line.

    Raises
    ------
    SpecError
        A name is unknown or missing, a unit is not the model's, or a value is out of bounds.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: expected lines 'name: {{value: ..., unit: ..., ...}}'")
    for name in data:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(str(name), PARAMETERS, n=1, cutoff=0)
            raise SpecError(f"{where}: unknown assumption '{name}'; did you mean '{near[0]}'?")
    lines = {}
    for name, (unit, meaning) in PARAMETERS.items():
        if name not in data:
            raise SpecError(f"{where}: '{name}' is missing ({meaning}, {unit})")
        try:
            line = Assumption.model_validate(data[name])
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join([name, *(str(part) for part in first["loc"])])
            raise SpecError(f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}") from error
        if line.unit != unit:
            raise SpecError(f"{where}: {name}.unit is '{line.unit}', the model needs '{unit}'")
        if name in _SHARES and line.value > 1:
            raise SpecError(f"{where}: {name}.value = {line.value:g} is a share; give at most 1")
        lines[name] = line
    return Assumptions(lines)
