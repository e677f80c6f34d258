"""Text encoders: ``encode(texts, spec, progress) -> float32 [N, D]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.progress import Progress
from profiles.registry import Registry
from profiles.spec import EncoderSpec

Encoder = Callable[[Sequence[str], EncoderSpec, Progress | None], NDArray[np.float32]]

ENCODERS: Registry[Encoder] = Registry(
    "encoder",
    {
        "transformers": "profiles.encode.hf:encode",
        "sentence-transformers": "profiles.encode.sentence:encode",
        "openai": "profiles.encode.api:encode",
        "parts": "profiles.encode.parts:encode",
        "tfidf": "profiles.encode.tfidf:encode",
    },
)

Cut = Callable[[Sequence[str], EncoderSpec], "NDArray[np.bool_] | None"]

CUTS: Registry[Cut] = Registry(
    "encoder that knows what it cut",
    {
        "transformers": "profiles.encode.hf:cut",
        "sentence-transformers": "profiles.encode.sentence:cut",
        "parts": "profiles.encode.parts:cut",
    },
)


def encode_texts(
    texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Encode texts; equal texts are encoded once and get equal vectors.

    Parameters
    ----------
    texts : sequence of str
    spec : EncoderSpec
    progress : callable, optional
        ``progress(done, total)`` in distinct texts, where the encoder can tell.

    Returns
    -------
    float32 [N, D]
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    at = {text: i for i, text in enumerate(distinct)}
    rows = np.array([at[text] for text in texts], dtype=np.int64)
    if spec.kind == "tfidf":
        # A corpus statistic: how often a text occurs matters.
        vectors = ENCODERS[spec.kind](list(texts), spec, progress)
    else:
        vectors = ENCODERS[spec.kind]([spec.prefix + text for text in distinct], spec, progress)[rows]
    return unit(vectors) if spec.normalise else vectors


def count_cut(texts: Sequence[str], spec: EncoderSpec) -> int | None:
    """How many texts are longer than what the encoder reads; None where it cannot tell."""
    if spec.kind not in CUTS:
        return None
    distinct = list(dict.fromkeys(texts))
    found = CUTS[spec.kind]([spec.prefix + text for text in distinct], spec)
    if found is None:
        return None
    long = {text for text, is_cut in zip(distinct, found, strict=True) if is_cut}
    return sum(text in long for text in texts)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)


def encoder_identity(spec: EncoderSpec) -> dict[str, Any]:
    """What the manifest says about the encoder: the spec, and a digest of local weights."""
    from pathlib import Path

    from profiles.content import LOCAL_ENCODERS, content_of
    from profiles.llm.sources import locate, weights_digest

    said = content_of(spec.model_dump(mode="json", exclude_none=True))
    source = locate(spec.model) if spec.model and spec.kind in LOCAL_ENCODERS else None
    return said | ({"weights": weights_digest(source)} if isinstance(source, Path) else {})
