"""A validation item in one history must stop the embedding file from loading, whichever way it got in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import profiles.build as build_module
from profiles.build import build_teacher
from profiles.history import UserHistory, train_histories
from profiles.spec import TeacherSpec
from recbole_kd.data.history import history_hash
from recbole_kd.data.profile_table import load_profiles, read_embedding_file, write_embedding_file
from recbole_kd.data.types import Split
from recbole_kd.errors import LeakageError

from .conftest import HISTORIES


def _with_validation_item(histories: list[UserHistory]) -> list[UserHistory]:
    first = histories[0]
    items = tuple(HISTORIES[first.user][:-1])
    ratings, times = (0.0,) * len(items), (0.0,) * len(items)
    return [
        replace(first, items=items, ratings=ratings, times=times, hash=history_hash(items)),
        *histories[1:],
    ]


def test_builder_refuses_before_it_writes(
    split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        build_module, "train_histories", lambda *a: _with_validation_item(train_histories(*a))
    )
    with pytest.raises(LeakageError, match="user 'u1', position 7"):
        build_teacher(TeacherSpec.model_validate(template), split, texts, tmp_path, domain="movies")
    assert not list(tmp_path.glob("*.parquet"))


def test_loader_refuses_a_file_that_an_unguarded_builder_wrote(
    split: Split, texts: dict, template: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        build_module, "train_histories", lambda *a: _with_validation_item(train_histories(*a))
    )
    monkeypatch.setattr(build_module.LeakageGuard, "check", lambda *a: None)
    path = build_teacher(TeacherSpec.model_validate(template), split, texts, tmp_path, domain="movies")
    with pytest.raises(LeakageError, match="source_user 'u1'"):
        load_profiles(path, split, trust_unverified=False)


def test_a_sound_file_loads_and_an_altered_hash_does_not(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    path = build_teacher(TeacherSpec.model_validate(template), split, texts, tmp_path, domain="movies")
    table = load_profiles(path, split, trust_unverified=False)
    assert table.coverage == 1.0
    rows, manifest = read_embedding_file(path)
    hashes = rows.history_hash.copy()
    hashes[3] = history_hash(["x"])
    write_embedding_file(tmp_path / "bad.parquet", replace(rows, history_hash=hashes), manifest)
    with pytest.raises(LeakageError):
        load_profiles(tmp_path / "bad.parquet", split, trust_unverified=False)
