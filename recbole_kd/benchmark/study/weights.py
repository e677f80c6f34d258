"""Weights of users by the grounding of the profile that they were given, damage and mix-ups included.

``profiles audit`` scores the texts as they were written; here a user's score is that of the text behind the
vector that teaches, read as a profile of this user.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.marked_yaml import MarkedDict
from recbole_kd.benchmark.study.spec import StudySpec
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from profiles.spec import TeacherSpec
    from recbole_kd.data.types import Split

FOLDER = ("cache", "grounding")
COLUMN = "grounding"


def weighted_variants(spec: StudySpec, points: list[dict[str, Any]]) -> list[str]:
    """Variants of the series that ask for weights."""
    series = {name for name, one in (spec.series or {}).items() if one.weighted}
    return [p["variant"] for p in points if p["series"] in series and p["variant"].startswith(p["series"])]


def with_weights(
    data: MarkedDict, variants: list[str], results: Path, wanted: set[str]
) -> tuple[MarkedDict, list[str]]:
    """The experiment with ``distill.confidence`` of every weighted variant, on every dataset.

    Parameters
    ----------
    wanted : set of str
        Variants whose weights are made where they are missing.

    Returns
    -------
    MarkedDict
    list of str
        Variants that were left out, because their weights do not exist and are not wanted now: without
        them the address of their runs is not known.

    Raises
    ------
    SpecError
        A weighted variant without a teacher.
    """
    mark = data.where("variants")
    overrides, pending = list(data.get("overrides") or []), []
    found = [rooms.dataset(name, data.where("datasets"), data.get("dataset"))[0] for name in data["datasets"]]
    for variant in variants:
        own = data["variants"].get(variant)
        if own is None:
            continue
        if own.get("teacher") is None:
            raise SpecError(f"{mark}: variant '{variant}': 'weighted' needs a 'teacher'")
        teacher = rooms.teacher_spec(own["teacher"], own.get("profile"), mark)
        make = variant in wanted
        files = [grounding_file(results, dataset, teacher, make) for dataset in found]
        if any(path is None for path in files):
            pending.append(variant)
            continue
        for name, path in zip(data["datasets"], files, strict=True):
            over = {"where": {"dataset": name, "variant": variant}, "distill": {"confidence": str(path)}}
            overrides.append(_marked(over, mark))
    result = data.without()
    result.put("overrides", overrides, data.where("overrides"))
    result.put("variants", data["variants"].without(*pending), mark)
    return result, pending


def _marked(value: Any, mark: Any) -> Any:
    if not isinstance(value, dict):
        return value
    result = MarkedDict(mark)
    for key, inner in value.items():
        result.put(key, _marked(inner, mark), mark)
    return result


@lru_cache(maxsize=8)
def _split(dataset: DatasetSpec) -> tuple[Split, dict[str, dict[str, str]]]:
    from recbole_kd.data.load import load_dataset, load_item_texts
    from recbole_kd.data.split import make_split

    return make_split(load_dataset(dataset), dataset.split), load_item_texts(dataset)


def grounding_file(results: Path, dataset: DatasetSpec, teacher: TeacherSpec, make: bool) -> Path | None:
    """One score per user of a teacher (content-addressed).

    Parameters
    ----------
    make : bool
        Write it where it is missing.

    Returns
    -------
    Path or None
        Parquet with ``user``, ``profile`` and ``grounding``; None where it is missing and not to be made.
    """
    from profiles.build import build_teacher, label_of, teacher_digest

    split, texts = _split(dataset)
    address = teacher_digest(teacher, split, texts, dataset.domain)
    path = results.joinpath(*FOLDER, f"{label_of(teacher)}-{address}.parquet").resolve()
    if path.is_file() or not make:
        return path if path.is_file() else None
    sys.stderr.write(f"weights of {dataset.name}: grounding of {path.stem}\n")
    cache = rooms.profiles_folder(results)
    vectors = build_teacher(teacher, split, texts, cache, domain=dataset.domain)
    frame = _scores(teacher, split, texts, dataset.domain, cache, vectors)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_parquet(temporary, index=False)
    os.replace(temporary, path)
    return path


def _scores(
    teacher: TeacherSpec,
    split: Split,
    texts: dict[str, dict[str, str]],
    domain: str,
    cache: Path,
    vectors: Path,
) -> pd.DataFrame:
    import pandas as pd

    from profiles.audit import Auditor
    from profiles.build import make_author, write_texts
    from profiles.corrupt import corrupt_texts
    from profiles.history import train_histories
    from profiles.job import STORE
    from profiles.store import Store
    from recbole_kd.data.profile_table import read_embedding_file

    author = make_author(teacher, split, texts, domain)
    with Store(cache / STORE) as store:
        outcome = write_texts(teacher, split, texts, store, domain=domain, author=author)
    damaged = corrupt_texts(teacher, split, outcome.profiles, texts, domain)
    given = {(p.user, p.profile): t for p, t in zip(outcome.profiles, damaged, strict=True)}
    auditor = Auditor(author.statistician, train_histories(split))
    rows = read_embedding_file(vectors)[0]
    whose = zip(rows.user, rows.source_user, rows.profile.tolist(), strict=True)
    scores = [(u, p, auditor.score(str(u), given[str(source), p]).grounding) for u, source, p in whose]
    return pd.DataFrame(scores, columns=["user", "profile", COLUMN])
