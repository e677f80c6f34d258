"""What decides the texts of a writer and the vectors of an encoder, apart from what makes them faster.

Stores, embedding files and runs are found by their content; this is the one place that says what that is of a
writer and of an encoder.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.spec import WriterSpec
from recbole_kd.strict import digest

SPEED = ("batch_size", "device", "api")
"""Keys that change time and cost only; :func:`decided_by_speed` has the exceptions."""

LOCAL_ENCODERS = ("transformers", "sentence-transformers", "parts")


def content_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the texts, or vectors, of a canonical WriterSpec or EncoderSpec depend on."""
    return {key: value for key, value in part.items() if key not in SPEED} | decided_by_speed(part)


def decided_by_speed(part: Mapping[str, Any]) -> dict[str, Any]:
    """What of :data:`SPEED` decides after all: nothing, for a model that is asked in the usual way.

    What is passed on to an endpoint can be anything; the tokenizer decides how much of a history fits into
    ``max_tokens``; and a local model that draws its words draws them for a batch at a time.
    """
    api = part.get("api") or {}
    limited = (part.get("history") or {}).get("max_tokens") is not None
    found = {"extra_body": api.get("extra_body"), "tokenizer": api.get("tokenizer") if limited else None}
    content: dict[str, Any] = {key: value for key, value in found.items() if value}
    if part.get("backend") == "local" and part["decoding"]["temperature"] > 0:
        content["batch_size"] = part["batch_size"]
    return content


def decoding_digest(spec: WriterSpec) -> str:
    """How words are picked, as the store keys answers by; what decides the message is in the message."""
    also = {k: v for k, v in decided_by_speed(spec.canonical()).items() if k != "tokenizer"}
    return digest(spec.decoding.canonical() | also)


def weights_of(parts: Mapping[str, Any]) -> dict[str, str]:
    """Digests of weights in files of the user's, e.g. ``{"encoder weights": "9f86d081884c7d65"}``.

    A package, a name on the hub and a stated ``revision`` say which weights are meant. A folder does not:
    what lies in it can be exchanged.

    Parameters
    ----------
    parts : mapping
        ``writer`` and ``encoder`` -> canonical spec; other keys are passed over.

    Raises
    ------
    SpecError
        No such file or folder.
    """
    found = {name: _weights(parts[name]) for name in ("writer", "encoder") if name in parts}
    return {f"{name} weights": value for name, value in found.items() if value is not None}


def _weights(part: Mapping[str, Any]) -> str | None:
    model = part.get("model")
    runs_here = part.get("backend") == "local" or part.get("kind") in LOCAL_ENCODERS
    return digest_of_weights(model) if model and runs_here and not part.get("revision") else None


def digest_of_weights(model: str) -> str | None:
    """Digest of weights in a file or folder of the user's; None for a package and for a name on the hub.

    Raises
    ------
    SpecError
        No such file or folder.
    """
    from profiles.llm.sources import locate, weights_files

    if model.startswith("package:"):
        return None
    source = locate(model)
    if not isinstance(source, Path):
        return None
    stats = ((file, file.stat()) for file in weights_files(source))
    return _digest(source, tuple((str(file), s.st_size, s.st_mtime_ns) for file, s in stats))


@functools.lru_cache(maxsize=64)
def _digest(path: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """An experiment names the same weights in each of its variants; gigabytes are read once."""
    from profiles.llm.sources import weights_digest

    return weights_digest(path)
