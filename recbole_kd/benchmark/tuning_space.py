"""``properties/tuning/*.yaml``: how a search is done, and the values that a trial may have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.validate import validated
from recbole_kd.strict import Strict


class Range(Strict):
    """Values of one dotted path: an interval or a list."""

    low: float | None = None
    high: float | None = None
    log: bool | None = None
    integer: bool | None = None
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        interval = self.low is not None and self.high is not None
        if interval == (self.choices is not None):
            raise ValueError("give 'low' and 'high', or 'choices'")
        if interval and not self.low < self.high:  # type: ignore[operator]
            raise ValueError("'low' must be below 'high'")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a trial may have this value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high


class TuningSpec(Strict):
    """``properties/tuning/*.yaml``."""

    trials: int = Field(ge=1)
    seed: int
    training_seed: int = Field(ge=0)
    sampler: Literal["tpe", "random"]
    startup_trials: int = Field(ge=1)
    start_with_defaults: bool = True
    shared: dict[str, Range]
    by_backbone: dict[str, dict[str, Range]] | None
    recbole: dict[str, Range] | None = Field(None, description="in place of 'shared' under RecBole's Trainer")
    method: dict[str, Range] | None

    def space(self, backbone: str, distilled: bool, prefix_mode: bool = False) -> dict[str, Range]:
        """Search space of a method; that of the plain backbone is a part of it.

        A model under RecBole's own Trainer counts rows, not sequences, in a batch, so that it may
        have a space of its own in place of the shared one.
        """
        shared = self.recbole if prefix_mode and self.recbole is not None else self.shared
        found = {**shared, **(self.by_backbone or {}).get(backbone, {})}
        return {**found, **(self.method or {})} if distilled else found


def load_tuning(name: str, trials: int | None = None) -> TuningSpec:
    """Read ``properties/tuning/<name>.yaml``; ``trials`` replaces its number of trials."""
    data = properties.load("tuning", name)
    if trials is not None:
        data.put("trials", trials, data.where("trials"))
    return validated(TuningSpec, data, "tuning")
