"""Name -> objective. A new objective is one file and one line in :data:`OBJECTIVES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["vectors", "profiles", "attributes", "cluster", "lists"]
KINDS: dict[str, str] = {
    "vectors": "student [B, D], teacher [B, D], weight [B]",
    "profiles": "student [B, D], teacher [B, K, D], weight [B, K]",
    "attributes": "student [B, A] logits, teacher [B, A] multi-hot, weight [B]",
    "cluster": "student [B, C] logits, teacher [B, C] one-hot, weight [B]",
    "lists": "student [B, n_items] scores, teacher lists, weight [B]",
}
"""What the three arguments of an objective of each kind are."""


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Objective:
    """An objective and what must be known to call it.

    Attributes
    ----------
    name : str
        Also the module below ``recbole_kd/objectives`` and the function in it.
    kind : str
        Key of :data:`KINDS`.
    paper : str
    parameters : mapping
        Keyword argument of the function -> type, possibly annotated with bounds. Their defaults stand
        in ``properties/objective/<name>.yaml``.
    """

    name: str
    kind: Kind
    paper: str
    parameters: Mapping[str, Any]

    @cached_property
    def args(self) -> type[Strict]:
        """Validated parameters."""
        fields: dict[str, Any] = {name: (kind, ...) for name, kind in self.parameters.items()}
        return create_model(f"{self.name}_args", __base__=Strict, **fields)

    @property
    def function(self) -> Callable[..., Tensor]:
        """``(student, teacher, weight, **parameters) -> scalar``; imports torch."""
        function: Callable[..., Tensor] = getattr(
            import_module(f"recbole_kd.objectives.{self.name}"), self.name
        )
        return function

    def bind(self, args: Mapping[str, Any]) -> Callable[..., Tensor]:
        """The function with its parameters filled in.

        Raises
        ------
        pydantic.ValidationError
            A parameter is missing, unknown or out of bounds.
        """
        return partial(self.function, **dict(self.args.model_validate(dict(args))))


def _objective(name: str, kind: Kind, paper: str, **parameters: Any) -> tuple[str, Objective]:
    return name, Objective(name, kind, paper, parameters)


OBJECTIVES: dict[str, Objective] = dict(
    [
        _objective("mse", "vectors", "Severin et al., ECIR 2026"),
        _objective("cosine", "vectors", "Severin et al., ECIR 2026"),
        _objective("huber", "vectors", "Huber, 1964", delta=Positive),
    ]
)


def get_objective(name: str) -> Objective:
    """Return the objective called ``name``.

    Raises
    ------
    SpecError
        If there is none; the message names the nearest one.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"distill.objective: no objective {name!r}{hint} Known: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]
