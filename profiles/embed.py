"""Profile texts to rows of an embedding file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from profiles.corrupt import corrupt_rows, corrupt_texts
from profiles.encode import count_cut, encode_texts, encoder_identity
from profiles.progress import Progress
from profiles.reduce import reduce_vectors
from profiles.spec import TeacherSpec
from profiles.store import Profile
from recbole_kd.data.profile_table import ProfileRows, read_embedding_file
from recbole_kd.data.types import Split

_log = logging.getLogger(__name__)
_OF_THE_BASE = ("writer", "encoder_truncated")


def embed_profiles(
    spec: TeacherSpec,
    split: Split,
    profiles: Sequence[Profile],
    item_texts: Mapping[str, Mapping[str, str]],
    domain: str | None = None,
    progress: Progress | None = None,
) -> tuple[ProfileRows, dict[str, Any]]:
    """Corrupt (when asked), encode, reduce.

    Returns
    -------
    ProfileRows
    dict
        What the manifest says about writer, tokens, seconds and price; ``encoder_truncated`` is the number
        of texts whose end the encoder left out, where it knows.
    """
    texts = corrupt_texts(spec, split, profiles, item_texts, domain)
    vectors = reduce_vectors(encode_texts(texts, spec.encoder, progress), spec.reduction)
    rows = ProfileRows.build(
        user=[p.user for p in profiles],
        profile=[p.profile for p in profiles],
        history_last=[p.history_last for p in profiles],
        history_hash=[p.history_hash for p in profiles],
        vector=vectors,
    )
    said: dict[str, Any] = {"writer": writer_summary(profiles)}
    cut = count_cut(texts, spec.encoder)
    if cut is not None:
        said["encoder_truncated"] = cut
    if cut:
        limit = spec.encoder.max_tokens
        _log.warning(
            "profile '%s': %d of %d texts are longer than the %s that the encoder reads, and were cut; raise "
            "encoder.max_tokens as far as the model goes, or have shorter texts written",
            *(spec.name, cut, len(texts), f"{limit} tokens" if limit else "positions of the model"),
        )
    return corrupt_rows(spec.corruption, rows), said


def writer_summary(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Who wrote the texts and what it took; sums are over the profiles, seconds of wall time."""
    first = profiles[0]
    prices = [p.price for p in profiles if p.price is not None]
    return {
        "model": first.model,
        "revision": first.revision,
        "decoding": first.decoding,
        "prompt": first.prompt,
        "strategy": first.strategy,
        "profiles": len(profiles),
        "distinct_texts": len({p.text for p in profiles}),
        "calls": sum(p.calls for p in profiles),
        "prompt_tokens": sum(p.prompt_tokens for p in profiles),
        "completion_tokens": sum(p.completion_tokens for p in profiles),
        "seconds": round(sum(p.seconds for p in profiles), 1),
        "price_usd": round(sum(prices), 6) if prices else None,
    }


def manifest_of(spec: TeacherSpec, split: Split, base: Path | None) -> dict[str, Any]:
    """Manifest of an embedding file; a placebo repeats what its base says about writer and cut texts."""
    from profiles.build import label_of

    manifest = {
        "teacher": label_of(spec),
        "dataset": split.dataset.name,
        "dataset_digest": split.dataset.digest,
        "split_digest": split.digest,
        "as_of": spec.as_of.canonical() if spec.as_of else None,
        "corruption": [c.canonical() for c in spec.corruption],
        "encoder": encoder_identity(spec.encoder),
        "reduction": spec.reduction.canonical(),
        "placebo": spec.placebo.canonical() if spec.placebo else None,
    }
    if base is not None:
        said = read_embedding_file(base)[1]
        manifest |= {"base": base.name, **{key: said[key] for key in _OF_THE_BASE if key in said}}
    return manifest
