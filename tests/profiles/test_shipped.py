"""The texts in the repository are those that a build of ml-100k would ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.build import make_author, write_texts
from profiles.history import LeakageGuard
from profiles.llm.local import LocalBackend
from profiles.spec import load_teacher_spec
from profiles.store import Store
from profiles.transfer import SHIPPED, holds_shipped, read_profiles
from recbole_kd.data.history import history_hash
from recbole_kd.data.load import load_dataset, load_item_texts
from recbole_kd.data.spec import read_dataset_spec
from recbole_kd.data.split import make_split


@pytest.fixture(scope="module")
def ml_100k() -> tuple:
    spec = read_dataset_spec("ml-100k")
    return make_split(load_dataset(spec), spec.split), load_item_texts(spec)


def test_shipped_profiles_saw_train_interactions_only(ml_100k: tuple) -> None:
    split, _ = ml_100k
    profiles, manifest = read_profiles(SHIPPED / "ml-100k.smollm2.parquet")
    guard = LeakageGuard(split)
    assert manifest["split_digest"] == split.digest
    assert len(profiles) == len(split.train) == 943
    for p in profiles:
        train = guard.train_items(p.user)
        assert (p.history_last, p.history_hash) == (len(train), history_hash(train))


def test_a_build_finds_every_text_and_loads_no_model(
    ml_100k: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, texts = ml_100k

    def refuse(self: LocalBackend) -> None:
        raise AssertionError("a shipped text was not found")

    monkeypatch.setattr(LocalBackend, "load", refuse)
    monkeypatch.setattr(LocalBackend, "_folder", refuse)
    with Store(tmp_path / "s.sqlite") as store:
        spec = load_teacher_spec("smollm2")
        writer = make_author(spec, split, texts, "movies").writer
        assert not holds_shipped(store, "ml-100k", writer)
        outcome = write_texts(spec, split, texts, store, domain="movies")
        # So that nobody takes them for texts of his own.
        assert holds_shipped(store, "ml-100k", writer)
    assert (len(outcome.profiles), outcome.answered, outcome.failed) == (943, 0, {})
    assert all(p.text.startswith("This viewer likes") for p in outcome.profiles)
