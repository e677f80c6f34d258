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
    pieces, at = _pieces(texts)
    vectors = hf.encode(list(at), spec, progress)
    return np.stack([vectors[[at[part] for part in own]].mean(axis=0) for own in pieces]).astype(np.float32)


def cut(texts: Sequence[str], spec: EncoderSpec) -> NDArray[np.bool_]:
    """Whether a part of each text is longer than what the encoder reads, bool [N]."""
    pieces, at = _pieces(texts)
    found = hf.cut(list(at), spec)
    return np.array([found[[at[part] for part in own]].any() for own in pieces], np.bool_)


def _pieces(texts: Sequence[str]) -> tuple[list[list[str]], dict[str, int]]:
    """Parts of every text, and the place of each distinct part, short ones first."""
    pieces = [[part.strip() for part in text.split(SEPARATOR) if part.strip()] or [text] for text in texts]
    distinct = sorted({part for own in pieces for part in own}, key=lambda part: (len(part), part))
    return pieces, {part: i for i, part in enumerate(distinct)}
