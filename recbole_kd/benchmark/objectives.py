"""The objective of a variant: its own defaults (``properties/objective``) and its parameters, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge
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
    below = MarkedDict(mark)
    second = _second(layers)
    if second is not None:
        below = merge(below, _file(second["objective"], second.where("objective"))[1])
    args, distill = _file(name, mark)
    if args is not None:
        below = merge(below, _one("objective_args", args, mark))
    over = MarkedDict(mark)
    over.put("distill", merge(below, distill), mark)
    return merge(model, over)


def _second(layers: Sequence[MarkedDict]) -> MarkedDict | None:
    """The second objective that ``layers`` choose, if they do."""
    found = None
    for layer in layers:
        given = layer.get("distill")
        if isinstance(given, MarkedDict) and isinstance(given.get("also"), MarkedDict):
            found = given["also"] if found is None else merge(found, given["also"])
    if found is not None and found.get("objective") not in OBJECTIVES:
        name = str(found.get("objective"))
        raise SpecError(f"{found.where('objective')}: no objective '{name}'{did_you_mean(name, OBJECTIVES)}")
    return found


def _file(name: str, mark: Mark) -> tuple[MarkedDict | None, MarkedDict]:
    """Default parameters of an objective (``None``: it has no file) and what it changes in ``distill``."""
    if not OBJECTIVES[name].args.model_fields and name not in properties.names("objective"):
        return None, MarkedDict(mark)
    file = properties.load("objective", name, mark)
    said = validated(ObjectiveFile, file, f"objective '{name}'")
    return file["args"], file["distill"] if said.distill else MarkedDict(mark)


def _one(key: str, value: Any, mark: Mark) -> MarkedDict:
    result = MarkedDict(mark)
    result.put(key, value, mark)
    return result


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
    if isinstance(distill.get("also"), MarkedDict):
        also = _one("also", _checked_second(distill["also"]), distill.where("also"))
        result = merge(result, _one("distill", also, model.where("distill")))
    return result


def _checked_second(also: MarkedDict) -> MarkedDict:
    """A second objective with its parameters, validated."""
    name, mark = also["objective"], also.where("objective")
    if OBJECTIVES[name].kind != "vectors":
        known = [n for n, o in OBJECTIVES.items() if o.kind == "vectors"]
        raise SpecError(f"{mark}: 'also' takes an objective over vectors ({', '.join(known)}), not '{name}'")
    args = _file(name, mark)[0] or MarkedDict(mark)
    if isinstance(also.get("objective_args"), MarkedDict):
        args = merge(args, also["objective_args"])
    found = validated(OBJECTIVES[name].args, args, f"objective '{name}'")
    return merge(also, _one("objective_args", MarkedDict(mark, found.canonical()), mark))
