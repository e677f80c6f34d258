"""Item texts to a file of item vectors, the second seam to the student's side."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from profiles.content import content_of, weights_of
from profiles.encode import encode_texts, encoder_identity
from profiles.items import Item, described_items
from profiles.progress import Progress
from profiles.reduce import reduce_vectors
from profiles.spec import EncoderSpec, ReductionSpec
from recbole_kd.data.types import Dataset
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict, digest

# Raised when the same spec and texts would give other vectors.
FORMAT = 1


class ItemVectorSpec(Strict):
    """How items become vectors (``properties/items``)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str
    encoder: EncoderSpec
    reduction: ReductionSpec


def check_item_names(spec: ItemVectorSpec, where: str) -> ItemVectorSpec:
    """Look up the registry names of ``spec``.

    Raises
    ------
    SpecError
    """
    from profiles.encode import ENCODERS
    from profiles.reduce import REDUCTIONS

    try:
        ENCODERS.check(spec.encoder.kind)
        REDUCTIONS.check(spec.reduction.kind)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    return spec


def sentence(item: Item) -> str:
    """Everything an item says about itself in one line.

    Examples
    --------
    >>> sentence(Item("Toy Story", ("Animation", "Comedy"), "", 1995))
    'Toy Story (1995). Animation, Comedy.'
    """
    year = f" ({item.year})" if item.year and str(item.year) not in item.title else ""
    parts = [item.title + year, item.maker, ", ".join(item.categories)]
    return " ".join(f"{part}." for part in parts if part)


def without_words(text: str, share: float, seed: int) -> str:
    """Drop each word with probability ``share``; the same text always loses the same words.

    A text that would lose all keeps its first word.

    Examples
    --------
    >>> without_words("Toy Story (1995). Animation, Comedy.", 1.0, 0)
    'Toy'
    """
    words = text.split()
    draw = random.Random(f"{seed} {text}")
    kept = [word for word in words if draw.random() >= share]
    return " ".join(kept or words[:1])


def build_item_vectors(
    spec: ItemVectorSpec,
    dataset: Dataset,
    item_texts: Mapping[str, Mapping[str, str]],
    cache_dir: Path,
    *,
    domain: str | None = None,
    word_drop: tuple[float, int] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Encode the items of a dataset, or find the file; the path is content-addressed.

    Parameters
    ----------
    word_drop : (float, int), optional
        Share of the words that every text loses, and the seed; the texts are altered copies then.

    Raises
    ------
    ProfileError
        The dataset has no item texts.
    """
    from recbole_kd.data.item_vectors import write_item_vectors

    tokens, catalogue, _ = described_items(dataset, item_texts, domain)
    sentences = [sentence(catalogue[token]) for token in tokens]
    if word_drop is not None:
        sentences = [without_words(text, *word_drop) for text in sentences]
    texts_digest = digest(list(zip(tokens, sentences, strict=True)))
    said = spec.canonical()
    content = {"encoder": content_of(said["encoder"]), "reduction": said["reduction"], **weights_of(said)}
    key = digest({"format": FORMAT, **content, "texts": texts_digest})
    label = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"items-{spec.encoder.kind}-{spec.reduction.kind}")
    path = Path(cache_dir) / f"{label}-{key}.parquet"
    if not path.is_file():
        vectors = reduce_vectors(encode_texts(sentences, spec.encoder, progress), spec.reduction)
        manifest = {
            "dataset": dataset.name,
            "texts_digest": texts_digest,
            "encoder": encoder_identity(spec.encoder),
            "reduction": spec.reduction.canonical(),
        }
        write_item_vectors(path, tokens, vectors, manifest)
    return path
