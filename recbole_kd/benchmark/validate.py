"""Turn pydantic's complaints into one line: file, line, field and a mend."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict
from recbole_kd.errors import SpecError

Model = TypeVar("Model", bound=BaseModel)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)``, or the list of what is known when nothing is near."""
    names = sorted(str(name) for name in known)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(word).casefold(), list(folded), n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{folded[near[0]]}'?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"


def validated(model: type[Model], data: Mapping[str, Any], what: str = "") -> Model:
    """Build ``model`` from ``data``; on failure raise one line for the first complaint.

    Parameters
    ----------
    model : type of pydantic model
    data : mapping
        Preferably a :class:`MarkedDict`, so that the line is known.
    what : str
        Words put before the field, e.g. ``"variant 'kd'"``.

    Raises
    ------
    SpecError
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_context=True)
        first = min(complaints, key=lambda c: 0 if c["type"] == "extra_forbidden" else 1)
        raise SpecError(_explain(model, data, dict(first), what)) from error


def check_keys(given: MarkedDict, known: Iterable[str], what: str) -> None:
    """Raise for the first key of ``given`` that is not in ``known``."""
    names = set(known)
    for key in given:
        if key not in names:
            raise SpecError(f"{given.where(key)}: unknown {what} '{key}'{did_you_mean(key, names)}")


def _explain(model: type[BaseModel], data: Mapping[str, Any], complaint: dict[str, Any], what: str) -> str:
    loc: tuple[str | int, ...] = tuple(part for part in complaint["loc"] if part != "[key]")
    where = _locate(data, loc)
    field = ".".join(str(part) for part in loc)
    prefix = f"{where}: " if where else ""
    subject = f"{what}: " if what else ""
    if complaint["type"] == "extra_forbidden":
        hint = did_you_mean(str(loc[-1]), _fields_at(model, loc[:-1]))
        return f"{prefix}{subject}unknown key '{field}'{hint}"
    if complaint["type"] == "missing":
        return f"{prefix}{subject}'{field}' is missing"
    message = str(complaint["msg"]).removeprefix("Value error, ")
    shown = repr(complaint.get("input"))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{prefix}{subject}'{field}' = {shown}: {message[:1].lower()}{message[1:]}"


def _locate(data: Any, loc: Sequence[str | int]) -> Mark | None:
    """Mark of the deepest part of ``loc`` that was written in a file."""
    mark = data.mark if isinstance(data, MarkedDict) else None
    for part in loc:
        if isinstance(data, MarkedDict):
            mark = data.where(str(part))
        data = _step(data, part)
        if isinstance(data, MarkedDict) and not isinstance(part, str):
            mark = data.mark
    return mark


def _step(data: Any, part: str | int) -> Any:
    """Value at ``part``, or ``None`` where there is none."""
    if isinstance(data, Mapping):
        return data.get(part)
    if isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Field names of the (nested) model that stands at ``loc``."""
    annotation: Any = model
    for part in loc:
        annotation = _inner(annotation, part)
    found = _models(annotation)
    return [name for inner in found for name in inner.model_fields]


def _inner(annotation: Any, part: str | int) -> Any:
    for inner in _models(annotation):
        if part in inner.model_fields:
            return inner.model_fields[str(part)].annotation
    for option in _options(annotation):
        if get_origin(option) in (list, tuple, set):
            return get_args(option)[0]
        if get_origin(option) in (dict, Mapping):
            return get_args(option)[1]
    return annotation


def _options(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for arg in get_args(annotation) for option in _options(arg)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)]
