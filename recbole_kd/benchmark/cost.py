"""What a run cost: the teacher's texts (tokens, seconds, money) and the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.benchmark.spec import CellSpec

# Their price is the machine's, which no table of tokens knows.
_FREE = ("local",)
_COUNTED = ("calls", "prompt_tokens", "completion_tokens", "seconds")


def run_cost(
    spec: CellSpec, profile: Mapping[str, Any] | None, seconds: Mapping[str, float]
) -> dict[str, float]:
    """Numbers for ``cost`` of a manifest; what is not known is left out.

    Parameters
    ----------
    profile : mapping or None
        Manifest of the embedding file.
    seconds : mapping
        Of the training.

    Returns
    -------
    dict
        ``train_seconds``; ``llm_calls``, ``llm_prompt_tokens``, ``llm_completion_tokens``,
        ``llm_seconds`` and ``llm_usd``: sums over all of the teacher's texts, which every run that
        shares them repeats. Zeros where no language model wrote.
    """
    cost = {"train_seconds": round(float(seconds["train"]), 3)} if "train" in seconds else {}
    writer = (profile or {}).get("writer")
    if spec.teacher is None or _no_llm(spec):
        return cost | {f"llm_{name}": 0.0 for name in (*_COUNTED, "usd")}
    if not isinstance(writer, dict):
        return cost
    cost |= {f"llm_{name}": float(writer[name]) for name in _COUNTED if writer.get(name) is not None}
    price = writer.get("price_usd")
    if price is None and _backend(spec) in _FREE:
        price = 0.0
    return cost if price is None else cost | {"llm_usd": float(price)}


def _backend(spec: CellSpec) -> str | None:
    writer = (spec.teacher or {}).get("writer")
    return writer.get("backend") if isinstance(writer, dict) else None


def _no_llm(spec: CellSpec) -> bool:
    """Whether the cell's teacher is described and no language model takes part in it."""
    if spec.teacher_file is not None:
        return False
    from profiles.spec import TeacherSpec

    return not TeacherSpec.model_validate(spec.teacher).uses_llm
