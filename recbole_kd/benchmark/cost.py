"""What a run cost: the teacher's texts (tokens, seconds, money) and the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.benchmark.spec import CellSpec

# Their price is the machine's, which no table of tokens knows.
_FREE = ("local",)
# Key of the profiles in a cell's inputs.
_USERS = "users"
_COUNTED = ("calls", "prompt_tokens", "completion_tokens", "seconds")


def run_cost(
    spec: CellSpec,
    profile: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    read: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Numbers for ``cost`` of a manifest; what is not known is left out.

    Parameters
    ----------
    profile : mapping or None
        Manifest of the teacher's embedding file.
    seconds : mapping
        Of the training.
    read : mapping, optional
        Manifest of the embedding file whose texts or vectors the cell reads when it serves.

    Returns
    -------
    dict
        ``train_seconds``; ``llm_calls``, ``llm_prompt_tokens``, ``llm_completion_tokens``,
        ``llm_seconds`` and ``llm_usd``: sums over all of the teacher's texts, which every run that
        shares them repeats. Zeros where no language model wrote. Where the cell reads profiles when it
        serves, ``read_users`` and the same sums with ``read_`` in the place of ``llm_``: what writing the
        texts of so many users took, once for each of them and beside whatever a request costs.
    """
    cost = {"train_seconds": round(float(seconds["train"]), 3)} if "train" in seconds else {}
    cost |= _texts(spec.teacher, spec.teacher_file, profile, "llm")
    asked = ((spec.inputs or {}).get(_USERS) or {}).get("spec")
    if asked is not None:
        cost |= _texts(asked, None, read, "read")
        if read is not None and read.get("n_users") is not None:
            cost["read_users"] = float(read["n_users"])
    return cost


def _texts(
    teacher: Mapping[str, Any] | None, file: str | None, said: Mapping[str, Any] | None, name: str
) -> dict[str, float]:
    """What the texts of an embedding file took."""
    if teacher is None or _no_llm(teacher, file):
        return {f"{name}_{counted}": 0.0 for counted in (*_COUNTED, "usd")}
    writer = (said or {}).get("writer")
    if not isinstance(writer, dict):
        return {}
    cost = {f"{name}_{c}": float(writer[c]) for c in _COUNTED if writer.get(c) is not None}
    price = writer.get("price_usd")
    if price is None and _backend(teacher) in _FREE:
        price = 0.0
    return cost if price is None else cost | {f"{name}_usd": float(price)}


def _backend(teacher: Mapping[str, Any]) -> str | None:
    writer = teacher.get("writer")
    return writer.get("backend") if isinstance(writer, dict) else None


def _no_llm(teacher: Mapping[str, Any], file: str | None) -> bool:
    """Whether a teacher is described and no language model takes part in it."""
    if file is not None:
        return False
    from profiles.spec import TeacherSpec

    return not TeacherSpec.model_validate(teacher).uses_llm
