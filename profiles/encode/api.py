"""Embeddings of an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.progress import Progress
from profiles.spec import EncoderSpec


def encode(texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None) -> NDArray[np.float32]:
    """Encode in batches of ``batch_size``, with the retries of the LLM back-end.

    Raises
    ------
    StoreError
        The endpoint kept failing.
    """
    from profiles.llm.endpoint import embed

    # EncoderSpec refuses an endpoint without them.
    assert spec.api is not None
    assert spec.model is not None
    batches = [list(texts[i : i + spec.batch_size]) for i in range(0, len(texts), spec.batch_size)]
    return np.asarray(embed(spec.api, spec.model, batches, spec.dimension, progress), np.float32)
