"""Models of the sentence-transformers library, with the pooling that they bring along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.encode.hf import longer, pick_device
from profiles.llm.sources import locate, quiet_loading
from profiles.progress import Progress
from profiles.spec import EncoderSpec
from recbole_kd.errors import SpecError

# Batches between two signs of progress; the library itself tells nothing that we could draw.
BLOCK = 8


def encode(texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None) -> NDArray[np.float32]:
    """Encode with ``SentenceTransformer``; ``max_tokens`` overrides the model's own limit.

    Raises
    ------
    SpecError
        No model named, a pooling asked for that the library decides, or loading fails.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    if not spec.model:
        raise SpecError("encoder: kind sentence-transformers needs 'model'")
    if spec.pooling is not None:
        raise SpecError(
            "encoder.pooling: kind sentence-transformers brings its own; set null, or use kind transformers"
        )
    quiet_loading()
    options = {"dtype": getattr(torch, spec.dtype)}
    try:
        model = SentenceTransformer(
            str(locate(spec.model)), device=pick_device(spec.device), model_kwargs=options
        )
    except (OSError, ValueError) as error:
        raise SpecError(
            f"encoder.model '{spec.model}': cannot be loaded ({str(error).splitlines()[0][:160]})"
        ) from error
    if spec.max_tokens:
        model.max_seq_length = spec.max_tokens
    parts = []
    block = spec.batch_size * BLOCK
    for start in range(0, len(texts), block):
        part = list(texts[start : start + block])
        vectors = model.encode(
            part, batch_size=spec.batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        parts.append(vectors.float().cpu().numpy())
        if progress:
            progress(start + len(part), len(texts))
    return np.concatenate(parts).astype(np.float32)


def cut(texts: Sequence[str], spec: EncoderSpec) -> NDArray[np.bool_] | None:
    """Whether each text is longer than ``max_tokens``, bool [N].

    None where the library's own limit counts, or the tokenizer lies where only the library finds it.
    """
    if spec.max_tokens is None:
        return None
    try:
        return longer(texts, str(locate(str(spec.model))), spec.max_tokens)
    except (OSError, ValueError):
        return None
