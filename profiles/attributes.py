"""What profiles name: categories and makers as a multi-hot embedding file, for attribute prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.build import make_author, teacher_digest, write_texts
from profiles.corrupt import corrupt_texts
from profiles.embed import manifest_of, writer_summary
from profiles.history import train_histories
from profiles.lexicon import Attribute, Lexicon
from profiles.progress import Progress
from profiles.spec import EncoderSpec, ReductionSpec, TeacherSpec
from profiles.store import Store
from recbole_kd.data.profile_table import ProfileRows, read_embedding_file, write_embedding_file
from recbole_kd.data.types import Split
from recbole_kd.errors import ProfileError
from recbole_kd.strict import digest

# Raised when the same teacher would give other attributes.
FORMAT = 1
MIN_USERS = 5
"""An attribute that fewer profiles name cannot be learned and is left out."""


def build_attributes(
    spec: TeacherSpec,
    split: Split,
    item_texts: Mapping[str, Mapping[str, str]],
    cache_dir: Path,
    *,
    domain: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build the attribute file of a teacher, or find it; encoder and reduction of the teacher have no say.

    The file is an embedding file whose vector has a 1 for every attribute that the text names (found
    with the lexicon of the grounding audit, after corruption); the manifest lists them under
    ``attributes``.

    Raises
    ------
    ProfileError
        As ``build_teacher``; or the texts name no attribute often enough; or the placebo has no
        attributes.
    """
    content = {"teacher": teacher_digest(_plain(spec), split, item_texts, domain), "min_users": MIN_USERS}
    path = Path(cache_dir) / f"attributes-{digest({'format': FORMAT, **content})}.parquet"
    if path.is_file():
        return path
    if spec.placebo is not None:
        rows, said = _placebo(spec, split, item_texts, cache_dir, domain, progress)
    else:
        rows, said = _named(spec, split, item_texts, cache_dir, domain, progress)
    write_embedding_file(path, rows, manifest_of(_plain(spec), split, None) | said)
    return path


def multi_hot(named: list[set[Attribute]], min_users: int) -> tuple[NDArray[np.float32], list[str]]:
    """Matrix of who names what, and the names of its columns: most frequent first.

    Returns
    -------
    float32 [N, A]
    list of str
        ``category: Drama``.
    """
    counts = Counter(attribute for own in named for attribute in own)
    kept = [a for a, n in counts.items() if n >= min_users and a.kind != "title"]
    kept.sort(key=lambda a: (-counts[a], a.kind, a.name))
    at = {attribute: i for i, attribute in enumerate(kept)}
    matrix = np.zeros((len(named), len(kept)), np.float32)
    for r, own in enumerate(named):
        matrix[r, [at[a] for a in own if a in at]] = 1
    return matrix, [f"{a.kind}: {a.name}" for a in kept]


def _named(
    spec: TeacherSpec,
    split: Split,
    item_texts: Mapping[str, Mapping[str, str]],
    cache_dir: Path,
    domain: str | None,
    progress: Progress | None,
) -> tuple[ProfileRows, dict[str, Any]]:
    author = make_author(spec, split, item_texts, domain)
    with Store(Path(cache_dir) / "profiles.sqlite") as store:
        outcome = write_texts(spec, split, item_texts, store, domain=domain, progress=progress, author=author)
    if outcome.failed:
        user, reason = next(iter(outcome.failed.items()))
        raise ProfileError(
            f"profile '{spec.name}': {len(outcome.failed)} users have no text (user '{user}': {reason}); run "
            "the same command again: it asks only for what is missing"
        )
    profiles = outcome.profiles
    texts = corrupt_texts(spec, split, profiles, item_texts, domain)
    items = {item for history in train_histories(split) for item in history.items}
    lexicon = Lexicon(author.statistician.catalogue, items, titles=False)
    named = [{mention.attribute for mention in lexicon.mentions(text)} for text in texts]
    matrix, names = multi_hot(named, MIN_USERS)
    if not names:
        raise ProfileError(
            f"profile '{spec.name}', dataset {split.dataset.name}: no category or maker is named by "
            f"{MIN_USERS} profiles, so there is nothing to predict; use another prompt or objective"
        )
    rows = ProfileRows.build(
        user=[p.user for p in profiles],
        profile=[p.profile for p in profiles],
        history_last=[p.history_last for p in profiles],
        history_hash=[p.history_hash for p in profiles],
        vector=matrix,
    )
    return rows, {"attributes": names, "writer": writer_summary(profiles)}


def _placebo(
    spec: TeacherSpec,
    split: Split,
    item_texts: Mapping[str, Mapping[str, str]],
    cache_dir: Path,
    domain: str | None,
    progress: Progress | None,
) -> tuple[ProfileRows, dict[str, Any]]:
    from profiles.placebo import PLACEBOS

    assert spec.placebo is not None
    if spec.placebo.kind == "random":
        raise ProfileError(
            f"profile '{spec.name}': random vectors are no attributes; use placebo shuffled or constant"
        )
    base = spec.model_copy(update={"placebo": None})
    path = build_attributes(base, split, item_texts, cache_dir, domain=domain, progress=progress)
    rows, said = read_embedding_file(path)
    return PLACEBOS[spec.placebo.kind](rows, spec.placebo.seed), {
        name: said[name] for name in ("attributes", "writer")
    }


def _plain(spec: TeacherSpec) -> TeacherSpec:
    """The teacher with an encoder and a reduction that say nothing: attributes depend on texts only."""
    none = ReductionSpec(kind="none", n_components=None, seed=0)
    encoder = EncoderSpec(
        kind="attributes",
        model=None,
        pooling=None,
        normalise=False,
        max_tokens=None,
        prefix="",
        batch_size=1,
        device="cpu",
        dtype="float32",
    )
    return spec.model_copy(update={"encoder": encoder, "reduction": none})
