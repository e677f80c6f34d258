"""The objective of a variant: its own defaults (``properties/objective``) and its parameters, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.marked_yaml import MarkedDict, merge
from recbole_kd.benchmark.validate import did_you_mean, validated
from recbole_kd.errors import SpecError
from recbole_kd.objectives.registry import OBJECTIVES
from recbole_kd.strict import Strict


class ObjectiveFile(Strict):
    """``properties/objective/<name>.yaml``: the one place of an objective's defaults.

    An objective without parameters may do without the file.
    """

    args: dict[str, Any]
    distill: dict[str, Any] | None = Field(None, description="laid over properties/model/_distill.yaml")


def with_defaults(model: MarkedDict, layers: Sequence[MarkedDict]) -> MarkedDict:
    """Lay the defaults of the objective that ``layers`` choose over those of the model.

    Parameters
    ----------
    model : MarkedDict
        Defaults of a distilled backbone.
    layers : sequence of MarkedDict
        What an experiment says, the last one wins.

    Raises
    ------
    SpecError
        No objective of that name, or its file is wrong.
    """
    chosen = model["distill"]
    for layer in layers:
        given = layer.get("distill")
        if isinstance(given, MarkedDict) and "objective" in given:
            chosen = given
    name, mark = chosen["objective"], chosen.where("objective")
    if name not in OBJECTIVES:
        raise SpecError(f"{mark}: no objective '{name}'{did_you_mean(name, OBJECTIVES)}")
    if not OBJECTIVES[name].args.model_fields and name not in properties.names("objective"):
        return model
    file = properties.load("objective", name, mark)
    said = validated(ObjectiveFile, file, f"objective '{name}'")
    below = MarkedDict(mark)
    below.put("objective_args", file["args"], file.where("args"))
    if said.distill:
        below = merge(below, file["distill"])
    over = MarkedDict(mark)
    over.put("distill", below, mark)
    return merge(model, over)


def checked(model: MarkedDict) -> MarkedDict:
    """Validate the parameters of the objective; the result holds them in canonical form.

    Raises
    ------
    SpecError
        An unknown parameter or a bad value, with file and line.
    """
    distill = model["distill"]
    name, mark = distill["objective"], distill.where("objective_args")
    args = validated(OBJECTIVES[name].args, distill["objective_args"], f"objective '{name}'")
    over, inner = MarkedDict(model.mark), MarkedDict(model.mark)
    inner.put("objective_args", MarkedDict(mark), mark)
    over.put("distill", inner, model.where("distill"))
    result = merge(model, over)
    for key, value in args.canonical().items():
        result["distill"]["objective_args"].put(key, value, distill["objective_args"].where(key))
    return result
