"""From a split and a profile spec to an embedding file: the seam to the student's side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.content import content_of, weights_of
from profiles.history import LeakageGuard, UserHistory, train_histories
from profiles.progress import Progress
from profiles.refresh import RefreshLog
from profiles.spec import RefreshSpec, TeacherSpec, check_names
from profiles.store import Store
from profiles.write import Author, Outcome, Price, write_profiles
from recbole_kd.data.types import Split
from recbole_kd.errors import ProfileError
from recbole_kd.strict import digest

# Raised when the same spec and split would give another file.
FORMAT = 1

Texts = Mapping[str, Mapping[str, str]]


def build_teacher(
    spec: TeacherSpec,
    split: Split,
    item_texts: Texts,
    cache_dir: Path,
    *,
    domain: str | None = None,
    progress: Progress | None = None,
    encode_progress: Progress | None = None,
) -> Path:
    """Build the embedding file of a teacher, or find it.

    The path is content-addressed: equal spec, split and item texts give an equal path, and an
    existing file is returned as it is. Texts lie in ``cache_dir/profiles.sqlite``, are written at
    most once, and those that ship with the code are not written at all.

    Parameters
    ----------
    spec : TeacherSpec
    split : Split
    item_texts : mapping
        Item token -> field -> raw text.
    cache_dir : Path
    domain : str, optional
        The dataset's domain; guessed from the text fields when missing.
    progress : callable, optional
        ``progress(done, total)`` in users while texts are written.
    encode_progress : callable, optional
        The same in distinct texts while they are encoded.

    Returns
    -------
    Path
        ``cache_dir/<label>-<digest>.parquet``. The label follows from the content as well, so that
        profiles that differ in name only, and a placebo and its base, share their files.

    Raises
    ------
    ProfileError
        There are no item texts, or some users got no text.
    SpecError
        A corruption needs what the items do not name.
    LeakageError
        A history is not a prefix of the train part.
    """
    check_names(spec, f"profile '{spec.name}'")
    path = Path(cache_dir) / f"{label_of(spec)}-{teacher_digest(spec, split, item_texts, domain)}.parquet"
    if path.is_file():
        return path
    from profiles.corrupt.needs import check_items
    from profiles.embed import embed_profiles, manifest_of
    from recbole_kd.data.profile_table import write_embedding_file

    check_items(spec, split, item_texts, domain)  # before a store is made
    if spec.placebo is not None:
        base = spec.model_copy(update={"placebo": None})
        base_path = build_teacher(
            base,
            split,
            item_texts,
            cache_dir,
            domain=domain,
            progress=progress,
            encode_progress=encode_progress,
        )
        write_embedding_file(path, _placebo(spec, base_path), manifest_of(spec, split, base_path))
        return path
    with Store(Path(cache_dir) / "profiles.sqlite") as store:
        outcome = write_texts(spec, split, item_texts, store, domain=domain, progress=progress)
    if outcome.failed:
        user, reason = next(iter(outcome.failed.items()))
        raise ProfileError(
            f"profile '{spec.name}', dataset {split.dataset.name}: {len(outcome.failed)} users have no text "
            f"(user '{user}': {reason}); run the same command again: it asks only for what is missing"
        )
    rows, said = embed_profiles(spec, split, outcome.profiles, item_texts, domain, encode_progress)
    write_embedding_file(path, rows, manifest_of(spec, split, None) | said)
    return path


def label_of(spec: TeacherSpec) -> str:
    """Readable part of the file name: prompt kind, writer, and what was done to the vectors."""
    writer = Path(spec.writer.model).stem if spec.writer.model and spec.uses_llm else ""
    damage = "+".join(c.kind for c in spec.corruption)
    parts = (spec.placebo.kind if spec.placebo else "", spec.writer.prompt, writer, damage)
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(part for part in parts if part))


def teacher_digest(spec: TeacherSpec, split: Split, item_texts: Texts, domain: str | None = None) -> str:
    """Content address of a teacher: everything that the vectors depend on."""
    from profiles.prompts import domain_for, load_domain, load_prompt

    chosen = spec.writer.domain or domain
    fields = list(next(iter(item_texts.values()), {}))
    prompt = load_prompt(spec.writer.prompt, load_domain(chosen) if chosen else domain_for(fields))
    known = [str(token) for token in split.dataset.item_tokens[1:]]
    return digest(
        {
            "format": FORMAT,
            "spec": _content(spec),
            "prompt": prompt.version,
            "split": split.digest,
            "texts": digest([[token, sorted(item_texts.get(token, {}).items())] for token in known]),
        }
    )


def write_texts(
    spec: TeacherSpec,
    split: Split,
    item_texts: Texts,
    store: Store,
    *,
    domain: str | None = None,
    progress: Progress | None = None,
    users: int | None = None,
    author: Author | None = None,
    price: Price | None = None,
    shipped: bool = True,
    prepare: Progress | None = None,
) -> Outcome:
    """Write the texts of a teacher into ``store`` (corruption comes later, at embedding).

    Parameters
    ----------
    users : int, optional
        Only the first so many users.
    author : Author, optional
        As made by ``make_author``, to share a loaded model.
    price : callable, optional
        ``price(prompt_tokens, completion_tokens)`` in US dollars; the shipped table by default.
    shipped : bool
        Use the texts that ship with the code.
    prepare : callable, optional
        ``prepare(done, total)`` in users while the first prompts are made.

    Raises
    ------
    ProfileError, LeakageError
    """
    from profiles.prices import price_function
    from profiles.transfer import import_shipped

    histories = histories_of(spec, split, item_texts, domain)
    guard = LeakageGuard(split)
    for history in histories:
        guard.check(history.user, history.items)
    author = author or make_author(spec, split, item_texts, domain, histories)
    name = split.dataset.name
    if shipped:
        import_shipped(store, name, author.writer)
    price = price or price_function(author.backend.model)
    return write_profiles(author, histories[:users], store, name, progress, price, prepare)


def histories_of(
    spec: TeacherSpec, split: Split, item_texts: Texts, domain: str | None = None
) -> list[UserHistory]:
    """What each profile may see: the train part as of ``spec.as_of``, or as of its last refresh."""
    start = train_histories(split, spec.as_of)
    if spec.refresh is None:
        return start
    whole = train_histories(split)
    log = refresh_log(spec, spec.refresh, whole, {h.user: h.last for h in start}, item_texts, domain)
    return log.in_force(whole)


def refresh_log(
    spec: TeacherSpec,
    refresh: RefreshSpec,
    whole: list[UserHistory],
    start: Mapping[str, int],
    item_texts: Texts,
    domain: str | None = None,
) -> RefreshLog:
    """Play a refresh policy; ``drift`` measures on the categories of the items, equally weighted."""
    from profiles.refresh import run_policy

    vectors = None
    if refresh.policy == "drift":
        vectors = category_vectors(whole, item_texts, spec.writer.domain or domain)
    return run_policy(refresh, whole, start, vectors)


def make_author(
    spec: TeacherSpec,
    split: Split,
    item_texts: Texts,
    domain: str | None = None,
    histories: list[UserHistory] | None = None,
) -> Author:
    """Bring prompt, statistics and back-end together.

    Raises
    ------
    ProfileError
        The dataset has no item texts.
    SpecError
        A corruption needs what the items do not name.
    """
    from profiles.corrupt.needs import check_items

    if not item_texts:
        raise ProfileError(
            f"dataset {split.dataset.name} has no item texts, so nothing can be said about its users; "
            "name the text columns of its .item file under 'text' in the dataset YAML"
        )
    check_items(spec, split, item_texts, domain)
    histories = histories_of(spec, split, item_texts, domain) if histories is None else histories
    return Author(spec.writer, item_texts, histories, domain)


def category_vectors(
    histories: list[UserHistory], item_texts: Texts, domain: str | None = None
) -> dict[str, NDArray[np.float64]]:
    """One vector per item: equal weights on its categories, zero elsewhere."""
    from profiles.items import Catalogue
    from profiles.prompts import domain_for, load_domain

    fields = list(next(iter(item_texts.values()), {}))
    catalogue = Catalogue(item_texts, load_domain(domain) if domain else domain_for(fields))
    tokens = sorted({item for h in histories for item in h.items})
    names = sorted({name for token in tokens for name in catalogue[token].categories})
    at = {name: i for i, name in enumerate(names)}
    vectors = {}
    for token in tokens:
        vector = np.zeros(len(names))
        categories = catalogue[token].categories
        vector[[at[name] for name in categories]] = 1 / max(len(categories), 1)
        vectors[token] = vector
    return vectors


def _placebo(spec: TeacherSpec, base: Path) -> Any:
    from profiles.placebo import PLACEBOS
    from recbole_kd.data.profile_table import read_embedding_file

    assert spec.placebo is not None
    return PLACEBOS[spec.placebo.kind](read_embedding_file(base)[0], spec.placebo.seed)


def _content(spec: TeacherSpec) -> dict[str, Any]:
    """The spec without names and what changes speed only, with the weights of the user's own models."""
    content = spec.canonical()
    weights = weights_of(content)
    for label in ("name", "description", "trust_unverified"):
        content.pop(label)
    return content | {part: content_of(content[part]) for part in ("writer", "encoder")} | weights


__all__ = ["build_teacher", "label_of", "make_author", "teacher_digest", "write_texts"]
