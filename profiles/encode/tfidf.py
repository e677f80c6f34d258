"""TF-IDF and a truncated SVD (latent semantic analysis): the encoder without a neural network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.progress import Progress
from profiles.spec import EncoderSpec
from recbole_kd.errors import SpecError


def encode(texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None) -> NDArray[np.float32]:
    """Encode by word uni- and bigrams; fitted on the given texts.

    Raises
    ------
    SpecError
        ``dimension`` is missing, or larger than the texts allow.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not spec.dimension:
        raise SpecError("encoder: kind tfidf needs 'dimension'")
    weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(texts)
    most = min(weights.shape) - 1
    if spec.dimension > most:
        raise SpecError(
            f"encoder.dimension: {spec.dimension}, but these texts have rank {most} at most; lower it"
        )
    svd = TruncatedSVD(spec.dimension, random_state=spec.seed)
    vectors = np.asarray(svd.fit_transform(weights), np.float32)
    if progress:
        progress(len(texts), len(texts))
    return vectors
