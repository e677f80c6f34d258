"""The mean of the vectors of a text's parts: with the prompt kind ``items``, the mean of item texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.encode import hf
from profiles.progress import Progress
from profiles.spec import EncoderSpec

# What the prompt kind `items` puts between items.
SEPARATOR = "\u00a6"


def encode(texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None) -> NDArray[np.float32]:
    """Encode every distinct part once, as kind ``transformers`` does, and average over a text's parts.

    v_text = 1/P sum_p E(part_p), where a part that stands twice counts twice.

    Returns
    -------
    float32 [N, D]
    """
    pieces = [[part.strip() for part in text.split(SEPARATOR) if part.strip()] or [text] for text in texts]
    distinct = sorted({part for own in pieces for part in own}, key=lambda part: (len(part), part))
    at = {part: i for i, part in enumerate(distinct)}
    vectors = hf.encode(distinct, spec, progress)
    return np.stack([vectors[[at[part] for part in own]].mean(axis=0) for own in pieces]).astype(np.float32)
