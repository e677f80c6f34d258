"""Items ranked by how near their text is to a user's profile: a teacher for objectives over lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from profiles.build import build_teacher, teacher_digest
from profiles.encode import encode_texts
from profiles.items import Catalogue, Item
from profiles.progress import Progress
from profiles.spec import ReductionSpec, TeacherSpec
from recbole_kd.data.profile_table import ProfileRows, read_embedding_file
from recbole_kd.data.teacher_lists import write_teacher_lists
from recbole_kd.data.types import Split
from recbole_kd.errors import ProfileError
from recbole_kd.strict import digest

if TYPE_CHECKING:
    import pandas as pd

# Raised when the same teacher would give other lists.
FORMAT = 1
_CHUNK = 1024


def build_text_lists(
    spec: TeacherSpec,
    split: Split,
    item_texts: Mapping[str, Mapping[str, str]],
    profiles_dir: Path,
    lists_dir: Path,
    *,
    top: int,
    exclude_seen: bool,
    domain: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build the list file of a teacher, or find it.

    Score of an item: the largest product of one of the user's profile vectors with the item's text
    vector, both from the teacher's encoder and before its reduction.

    Parameters
    ----------
    spec : TeacherSpec
    split : Split
    item_texts : mapping
    profiles_dir, lists_dir : Path
        Where embedding files and lists lie.
    top : int
        Length of a list.
    exclude_seen : bool
        Leave out the items of the user's own train history.

    Raises
    ------
    ProfileError, LeakageError
    """
    if spec.encoder.kind == "tfidf":
        raise ProfileError(
            f"profile '{spec.name}': TF-IDF of profiles and of items are different spaces, so they cannot be "
            "compared; choose a neural encoder for lists: {source: text}"
        )
    spec = spec.model_copy(update={"reduction": ReductionSpec(kind="none", n_components=None, seed=0)})
    teacher = teacher_digest(spec, split, item_texts, domain)
    name = digest({"format": FORMAT, "teacher": teacher, "top": top, "exclude_seen": exclude_seen})
    path = Path(lists_dir) / f"text-{name}.parquet"
    if path.is_file():
        return path
    embedded = build_teacher(spec, split, item_texts, profiles_dir, domain=domain, progress=progress)
    rows, said = read_embedding_file(embedded)
    vectors = _item_vectors(spec, split, item_texts, domain)
    frame = ranked_rows(rows, vectors, split, top=top, exclude_seen=exclude_seen)
    keys = ("teacher", "dataset", "dataset_digest", "split_digest", "encoder", "placebo", "writer")
    manifest = {key: said[key] for key in keys if key in said}
    write_teacher_lists(path, frame, {**manifest, "source": "text", "profiles": embedded.name, "top": top})
    return path


def ranked_rows(
    rows: ProfileRows, vectors: NDArray[np.float32], split: Split, *, top: int, exclude_seen: bool
) -> pd.DataFrame:
    """Rank the items with a text for every user of an embedding file.

    Parameters
    ----------
    rows : ProfileRows
    vectors : float32 [n_items, D]
        By item id; NaN for items that cannot be compared (padding, no text).
    """
    from recbole_kd.data.list_rows import ListRows

    dataset = split.dataset
    usable: NDArray[np.bool_] = np.all(np.isfinite(vectors), axis=1, keepdims=True)[:, 0]
    clean = np.where(usable[:, None], vectors, 0)
    ids = {str(token): i for i, token in enumerate(dataset.user_tokens)}
    users, first, group = np.unique(rows.user.astype(str), return_index=True, return_inverse=True)
    collected = ListRows(split, top=min(top, int(usable.sum())))
    for begin in range(0, len(users), _CHUNK):
        chosen = np.arange(begin, min(begin + _CHUNK, len(users)))
        inside = np.flatnonzero((group >= chosen[0]) & (group <= chosen[-1]))
        score = np.full((len(chosen), dataset.n_items), -np.inf, np.float32)
        np.maximum.at(score, group[inside] - begin, rows.vector[inside] @ clean.T)
        score[:, ~usable] = -np.inf
        collected.add(
            np.array([ids[users[u]] for u in chosen]),
            score,
            exclude_seen=exclude_seen,
            source_user=rows.source_user[first[chosen]],
            history_last=rows.history_last[first[chosen]],
            history_hash=rows.history_hash[first[chosen]],
        )
    return collected.frame()


def describe(item: Item) -> str:
    """Text of an item for the encoder of the profiles.

    `profiles.item_vectors.sentence` adds the year. It is not used here: the lists of existing cells would
    change under the address that they have.

    Examples
    --------
    >>> describe(Item("Toy Story", ("Animation", "Comedy"), "", 1995))
    'Toy Story, Animation, Comedy'
    """
    return ", ".join(part for part in (item.title, item.maker, *item.categories) if part)


def _item_vectors(
    spec: TeacherSpec, split: Split, item_texts: Mapping[str, Mapping[str, str]], domain: str | None
) -> NDArray[np.float32]:
    from profiles.prompts import domain_for, load_domain

    chosen = spec.writer.domain or domain
    fields = list(next(iter(item_texts.values()), {}))
    catalogue = Catalogue(item_texts, load_domain(chosen) if chosen else domain_for(fields))
    tokens = [str(token) for token in split.dataset.item_tokens]
    have = [i for i, token in enumerate(tokens) if i and token in item_texts]
    vectors = encode_texts([describe(catalogue[tokens[i]]) for i in have], spec.encoder)
    out = np.full((len(tokens), vectors.shape[1]), np.nan, np.float32)
    out[have] = vectors
    return out
