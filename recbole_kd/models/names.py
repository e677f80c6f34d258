"""Looking a name up in a registry: an unknown one is an error that offers the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from recbole_kd.errors import SpecError

Entry = TypeVar("Entry")


def find(registry: Mapping[str, Entry], name: str, field: str) -> Entry:
    """Return ``registry[name]``.

    Parameters
    ----------
    registry : mapping
    name : str
    field : str
        What the user wrote it under, e.g. ``distill.pooling``.

    Raises
    ------
    SpecError
    """
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    kind = field.rsplit(".", 1)[-1].replace("_", " ")
    raise SpecError(f"{field}: no {kind} {name!r}{hint} Known: {', '.join(registry)}.")
