"""How long a re-ranking cell takes, before any has run and after: tokens times the size of its model.

Off by a factor of three like every first guess (``guess.py``); a finished cell gives the rate for others of
its ranker, however many users, candidates or examples either has. A model behind an endpoint is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.baselines.llm.base import Scope, Work
from recbole_kd.benchmark.rankers import ranker_class
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.errors import SpecError, UserError

# A written token costs several read ones (a step reads all weights), a learned one the way back as well.
_WRITTEN, _LEARNED = 2.5, 2.5
_GGUF = 0.73  # bytes of a weight: 4 bits, scales, larger embeddings
_FOLDER = 2.0  # bfloat16


def tokens(ranker: Mapping[str, Any], users: int, positions: int) -> float:
    """Tokens that a cell goes through, those that are written or learned weighed.

    Parameters
    ----------
    ranker : mapping
        ``spec`` (name, params, llm) and ``candidates`` of a cell.
    users, positions : int
        Of the data set, where the cell is not sampled.
    """
    spec, candidates = ranker["spec"], ranker["candidates"]
    asked = min(candidates["max_users"] or users, users) * len(candidates["parts"])
    decoding = (spec["llm"] or {}).get("decoding") or {}
    scope = Scope(asked, candidates["top"], positions, int(decoding.get("max_new_tokens", 0)))
    found: Work = ranker_class(spec["name"]).work(spec["params"], scope)
    return found.read + _WRITTEN * found.written + _LEARNED * found.learned


def weights(llm: Mapping[str, Any]) -> float | None:
    """Number of weights of a model on this machine, by the size of its file or folder; ``None``: not here."""
    from profiles.llm.sources import locate

    if llm["backend"] != "local":
        return None
    try:
        path = locate(str(llm["model"]))
    except SpecError:
        return None
    if not isinstance(path, Path):
        return None
    if path.is_file():
        return path.stat().st_size / _GGUF
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) / _FOLDER or None


def work(cell: CellSpec) -> float | None:
    """Multiply-adds of a cell, ``None`` where model or data are not here; 0 where no model is asked."""
    assert cell.ranker is not None
    llm = cell.ranker["spec"]["llm"]
    if llm is None:
        return 0.0
    size, count = weights(llm), planned_tokens(cell)
    return None if size is None or count is None else size * count


def planned_tokens(cell: CellSpec) -> float | None:
    """:func:`tokens` of a cell that has not run, ``None`` where its data cannot be read."""
    from recbole_kd.benchmark.guess import size_of

    assert cell.ranker is not None
    try:
        size = size_of(cell)
    except (UserError, OSError, ValueError):
        return None
    # A ranker without a model takes its start alone, whatever it ranks.
    return tokens(cell.ranker, size.users, size.interactions) or 1.0


def seconds_per_token(manifest: Mapping[str, Any]) -> float:
    """What a finished cell took, with what it found answered or trained already, by its :func:`tokens`.

    Raises
    ------
    KeyError, TypeError, ValueError
        The manifest is none of a ranker.
    """
    ranker, seconds, protocol = manifest["ranker"], manifest["seconds"], manifest["protocol"]
    took = max(float(seconds["total"]), sum(float(seconds.get(n, 0)) for n in ("train", "valid", "llm")))
    users, positions = int(protocol["users"]), int(protocol["interactions"])
    return took / (tokens({"spec": ranker, "candidates": ranker["candidates"]}, users, positions) or 1.0)
