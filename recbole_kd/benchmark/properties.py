"""Where the YAML files of ``properties/`` are and how a name finds its file."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_kd.benchmark.marked_yaml import MarkedDict, load_marked, merge
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

ENVIRONMENT = "RECBOLE_KD_PROPERTIES"


def roots() -> list[Path]:
    """Folders searched for properties, first hit wins.

    ``$RECBOLE_KD_PROPERTIES``, then ``./properties``, then the one shipped with the code, so that
    a user's folder needs to hold only what differs.
    """
    named = os.environ.get(ENVIRONMENT)
    candidates = [Path(named)] if named else []
    candidates += [Path("properties"), Path(__file__).resolve().parents[2] / "properties"]
    unique: dict[Path, Path] = {}
    for path in candidates:
        if path.is_dir():
            unique.setdefault(path.resolve(), path)
    return list(unique.values())


def names(kind: str) -> list[str]:
    """Names of all files of one kind, e.g. ``names("model")``; those with ``_`` in front are parts."""
    found = {p.stem for root in roots() for p in (root / kind).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def find(kind: str, name: str, asked_at: object = None) -> Path:
    """Return the file ``properties/<kind>/<name>.yaml``; a path to a YAML file is taken as it is.

    Raises
    ------
    SpecError
        Nothing of that name; the message offers the nearest one.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.is_file():
            return path
    else:
        for root in roots():
            path = root / kind / f"{name}.yaml"
            if path.is_file():
                return path
    prefix = f"{asked_at}: " if asked_at else ""
    raise SpecError(f"{prefix}no {kind} '{name}'{did_you_mean(name, names(kind))}")


def load(kind: str, name: str, asked_at: object = None, base: str | None = None) -> MarkedDict:
    """Read ``properties/<kind>/<name>.yaml`` and lay it over the file (or files in turn) it ``extends``.

    Parameters
    ----------
    base : str, optional
        Exchanges what the file extends: ``shuffled`` over ``template`` is the shuffled template.
    """
    return _load(kind, name, asked_at, (), base)


def _load(
    kind: str, name: str, asked_at: object, chain: tuple[str, ...], base: str | None = None
) -> MarkedDict:
    if name in chain:
        raise SpecError(f"{asked_at}: 'extends' goes round in circles: {' -> '.join((*chain, name))}")
    whole = load_marked(find(kind, name, asked_at))
    below = base if base is not None else whole.get("extends")
    data = whole.without("extends")
    if below is None:
        return data
    mark = whole.where("extends")
    listed = [below] if isinstance(below, str) else below
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise SpecError(f"{mark}: 'extends' must be the name of a {kind}, or a list of names")
    whole = _load(kind, listed[0], mark, (*chain, name))
    for one in listed[1:]:
        whole = merge(whole, _load(kind, one, mark, (*chain, name)))
    return merge(whole, data)
