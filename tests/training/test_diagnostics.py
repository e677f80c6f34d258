"""The watch in a training: it sees what was learned, flags a collapse and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.models.mixin import padded_batch
from recbole_kd.ranking import rank_targets
from recbole_kd.training.diagnostics import last_train_items, mean_profiles, sample_users
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import DiagnosticsSpec
from tests.students import BACKBONES, MAX_LEN, distill_spec, student_spec, tiny_split

SPEC = DiagnosticsSpec(
    enabled=True, users=40, seed=0, k=3, folds=4, clusters=4, collapse_rank=2.0, collapse_variance=0.01
)


@pytest.fixture(scope="module")
def split():
    return tiny_split(n_users=80)


@pytest.fixture(scope="module")
def profiles(split):
    """What a user chose: counts of ten groups of items in the train history, mixed."""
    n = split.dataset.n_users
    counts = np.zeros((n, 10))
    for user, row in zip(split.train.users, range(len(split.train)), strict=True):
        np.add.at(counts[user], split.train.row(row) % 10, 1)
    mix = np.random.default_rng(0).normal(size=(10, 12))
    mask = np.ones((n, 1), bool)
    mask[0] = False
    return ProfileTable((counts @ mix)[:, None].astype(np.float32), mask, {}, 1.0, "x")


def run(split, spec, profiles, diagnostics=SPEC, seed=1):
    return fit(
        split,
        spec,
        profiles,
        seed=seed,
        device="cpu",
        max_item_list_length=MAX_LEN,
        diagnostics=diagnostics,
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_watching_changes_no_rank(name, split, profiles):
    spec = student_spec(name, distill_spec(), epochs=4)
    watched, alone = run(split, spec, profiles), run(split, spec, profiles, None)
    assert alone.diagnostics is None
    assert alone.states is None
    assert [r["loss"] for r in watched.history] == [r["loss"] for r in alone.history]
    ranks = [rank_targets(r.model, split.test, max_len=MAX_LEN, batch_size=16).rank for r in (watched, alone)]
    assert np.array_equal(*ranks)


def test_every_epoch_has_a_row_and_the_moments_are_the_right_ones(split, profiles):
    spec = student_spec("SASRec", distill_spec(distil_epochs=3), epochs=5)
    result = run(split, spec, profiles)
    found = result.diagnostics
    assert (found["start"]["epoch"], found["distilled"]["epoch"]) == (0, 3)
    assert found["final"]["epoch"] == result.best_epoch
    for name in ("retrieval@3", "cka", "overlap@3", "state_rank", "student_variance", "teacher_rank"):
        assert all(np.isfinite(row[name]) for row in result.history)
        assert found["distilled"][name] == result.history[2][name]
        assert found["final"][name] == pytest.approx(result.history[result.best_epoch - 1][name])
    assert found["chance"]["retrieval@3"] == 3 / 80
    assert set(result.states) == {
        "users",
        *(f"{m}.{w}" for m in ("distilled", "final") for w in ("state", "compared")),
    }


def test_distillation_finds_profiles_and_strangers_profiles_are_not_learned(split, profiles):
    spec = student_spec("GRU4Rec", distill_spec(distil_epochs=30, alpha=0.9), epochs=30, learning_rate=0.01)
    true = run(split, spec, profiles).diagnostics
    order = np.r_[0, np.roll(np.arange(1, split.dataset.n_users), 1)]
    strange = ProfileTable(profiles.vectors[order], profiles.mask, {}, 1.0, "y")
    wrong = run(split, spec, strange)
    assert true["distilled"]["retrieval@3"] > 5 * true["chance"]["retrieval@3"]
    assert true["start"]["retrieval@3"] < 3 * true["chance"]["retrieval@3"]
    vectors, _ = mean_profiles(profiles)
    from recbole_kd.diagnostics import retrieval_at_k

    users = wrong.states["users"].numpy()
    against_true = retrieval_at_k(wrong.states["distilled.compared"].numpy(), vectors[1:], users - 1, SPEC.k)
    assert against_true < 3 * true["chance"]["retrieval@3"]
    assert true["distilled"]["probe"] > true["chance"]["probe"]


def test_a_collapsed_run_is_flagged_and_a_healthy_one_is_not(split, profiles):
    """A learned projection of the profiles, hardly any recommendation loss: all is mapped to one point."""
    sick = distill_spec(projection="teacher", alpha=0.999, distil_epochs=60)
    spec = student_spec("GRU4Rec", sick, epochs=60, learning_rate=0.02)
    found = run(split, spec, profiles).diagnostics
    assert found["collapsed"], found
    assert any("projected profiles" in text for text in found["collapse"])
    healthy = student_spec("GRU4Rec", distill_spec(distil_epochs=20, alpha=0.5), epochs=20)
    assert not run(split, healthy, profiles).diagnostics["collapsed"]


def test_sample_is_seeded_has_profiles_and_two_items(split):
    known = np.ones(split.dataset.n_users, bool)
    known[5:20] = False
    users = sample_users(split, known, 30, 4)
    assert len(users) == 30
    assert np.array_equal(users, sample_users(split, known, 30, 4))
    assert not np.array_equal(users, sample_users(split, known, 30, 5))
    assert known[users].all()


def test_the_batch_holds_the_latest_train_items(split):
    users = np.array([3, 7, 8])
    items, length = last_train_items(split.train, users, MAX_LEN)
    for row, user in enumerate(users):
        expected = split.train.row(int(np.flatnonzero(split.train.users == user)[0]))[-MAX_LEN:]
        assert items[row, : length[row]].tolist() == expected.tolist()
        assert (items[row, length[row] :] == 0).all()
    batch = padded_batch(items, length, torch.from_numpy(users))
    assert batch.user.tolist() == users.tolist()


def test_nothing_is_measured_without_teacher_or_with_too_few_users(split, profiles):
    assert run(split, student_spec("SASRec"), None).diagnostics is None
    few = ProfileTable(profiles.vectors, profiles.mask & (np.arange(81) < 15)[:, None], {}, 0.2, "z")
    assert run(split, student_spec("SASRec", distill_spec()), few).diagnostics is None
