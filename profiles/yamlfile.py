"""YAML files into strict models, with errors that name file and field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

M = TypeVar("M", bound=Strict)


def load_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    SpecError
        Missing, not YAML, or not a mapping.
    """
    try:
        raw = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: expected 'key: value' lines")
    return raw


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """YAML of a text, parsed once however often its file is asked for."""
    return yaml.safe_load(text)


def read_yaml(path: Path, model: type[M], added: Mapping[str, Any] | None = None) -> M:
    """Read and validate a YAML file; ``added`` is laid over it."""
    return validated(model, load_mapping(path) | dict(added or {}), str(path))


def validated(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """Validate ``data``; the first problem becomes one line.

    Raises
    ------
    SpecError
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise SpecError(f"{where}: {_problem(error, model)}") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``over`` on ``base``; nested mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _problem(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place}: missing"
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    known = _fields(model, first["loc"][:-1])
    near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0)
    return f"unknown key '{place}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            continue
        annotation = fields[part].annotation
        options = [a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")]
        current = options[0] if options else current
    return list(getattr(current, "model_fields", {}))
