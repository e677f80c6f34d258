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
Natural = Annotated[int, Field(ge=0)]


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
    any_dimension : bool
        Student and teacher vectors may differ in width.
    setup : mapping
        Parameters, likewise, of what prepares the teacher for a kind (clusters, drawn items): see
        ``recbole_kd/models/teacher_side.py``.
    dilution : float
        Users without a profile that are counted as a loss of 0 (``coverage: all``) make a mean over users
        smaller by the share of the others to this power: 1, or .5 where a root is taken of the mean.
    """

    name: str
    kind: Kind
    paper: str
    parameters: Mapping[str, Any]
    setup: Mapping[str, Any]
    any_dimension: bool
    dilution: float

    @cached_property
    def args(self) -> type[Strict]:
        """Validated parameters."""
        fields: dict[str, Any] = {name: (kind, ...) for name, kind in self._all().items()}
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
        checked = dict(self.args.model_validate(dict(args)))
        return partial(self.function, **{name: checked[name] for name in self.parameters})

    def _all(self) -> dict[str, Any]:
        return {**self.parameters, **self.setup}


def _objective(
    name: str,
    kind: Kind,
    paper: str,
    setup: Mapping[str, Any] | None = None,
    any_dimension: bool = False,
    dilution: float = 1.0,
    **parameters: Any,
) -> tuple[str, Objective]:
    return name, Objective(name, kind, paper, parameters, setup or {}, any_dimension, dilution)


OBJECTIVES: dict[str, Objective] = dict(
    [
        _objective("mse", "vectors", "Severin et al., ECIR 2026"),
        _objective("rmse", "vectors", "Severin et al., ECIR 2026", dilution=0.5),
        _objective("cosine", "vectors", "Severin et al., ECIR 2026"),
        _objective("huber", "vectors", "Huber, 1964", delta=Positive),
        _objective("infonce", "vectors", "van den Oord et al., 2018", temperature=Positive),
        _objective("supcon", "profiles", "Khosla et al., NeurIPS 2020", temperature=Positive),
        _objective(
            "vicreg",
            "vectors",
            "Bardes et al., ICLR 2022",
            invariance=NotNegative,
            variance=NotNegative,
            covariance=NotNegative,
            both_sides=bool,
        ),
        _objective("barlow_twins", "vectors", "Zbontar et al., ICML 2021", off_diagonal=NotNegative),
        _objective("rkd_distance", "vectors", "Park et al., CVPR 2019", any_dimension=True),
        _objective("rkd_angle", "vectors", "Park et al., CVPR 2019", any_dimension=True, max_rows=Count),
        _objective("similarity", "vectors", "Tung and Mori, ICCV 2019", any_dimension=True),
        _objective("cka", "vectors", "Kornblith et al., ICML 2019", any_dimension=True),
        _objective("experts", "vectors", "Kang et al., CIKM 2020"),
        _objective("attributes", "attributes", "multi-label cross-entropy", positive_weight=Positive),
        _objective(
            "cluster", "cluster", "Caron et al., ECCV 2018", setup={"n_clusters": Count, "seed": Natural}
        ),
        _objective(
            "kl",
            "lists",
            "Hinton et al., 2015",
            temperature=Positive,
            teacher_temperature=Positive,
            standardise=bool,
        ),
        _objective(
            "ranking_distillation",
            "lists",
            "Tang and Wang, KDD 2018",
            position_decay=Positive,
            discrepancy=NotNegative,
            normalise=bool,
        ),
        _objective(
            "relaxed_ranking",
            "lists",
            "Kang et al., CIKM 2020",
            setup={"interesting": Count | None, "interesting_decay": Positive, "others": Natural},
        ),
        _objective(
            "dllm2rec",
            "lists",
            "Cui et al., RecSys 2024",
            setup={"others": Count},
            position=NotNegative,
            confidence=NotNegative,
            consistency=NotNegative,
        ),
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
