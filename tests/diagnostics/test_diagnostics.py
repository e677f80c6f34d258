"""Each diagnostic against a definition written out, scipy or scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy, ortho_group, rankdata
from sklearn.linear_model import Ridge, RidgeClassifier

from recbole_kd import diagnostics as measure
from recbole_kd.diagnostics.decode import folds_of


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_effective_rank_is_the_exponential_of_the_spectrum_s_entropy(rng):
    x = rng.normal(size=(40, 7)) * [5, 3, 1, 1, 0.5, 0.1, 0.01] + 10
    sigma = np.sqrt(np.linalg.eigvalsh(np.cov(x.T, bias=True)))
    assert measure.effective_rank(x) == pytest.approx(np.exp(entropy(sigma)), rel=1e-6)


def test_effective_rank_counts_equal_directions_and_ignores_rotation_scale_and_place(rng):
    x = np.vstack([np.eye(5), -np.eye(5)])
    turned = 7 * x @ ortho_group.rvs(5, random_state=0) + 100
    assert measure.effective_rank(x) == pytest.approx(5)
    assert measure.effective_rank(turned) == pytest.approx(5)
    assert measure.effective_rank(np.outer(np.arange(6.0), [1, 2, 3]) + 4) == pytest.approx(1, abs=1e-3)
    assert measure.effective_rank(np.full((6, 3), 2.5)) == 0.0
    assert measure.effective_rank(np.zeros((6, 3))) == 0.0


def test_variance_is_over_users():
    assert measure.mean_variance([[0.0, 5.0], [2.0, 5.0]]) == pytest.approx(0.5)


def test_retrieval_ranks_are_average_tie_ranks_of_the_cosine(rng):
    candidates = rng.normal(size=(30, 6)).astype(np.float32)
    candidates[10:14] = candidates[3] * [[2.0], [1.0], [0.5], [3.0]]  # the same direction
    own = np.array([3, 5, 11, 29, 0])
    query = candidates[own] + rng.normal(size=(5, 6))
    cosine = (query @ candidates.T) / np.outer(
        np.linalg.norm(query, axis=1), np.linalg.norm(candidates, axis=1)
    )
    expected = [rankdata(-np.round(row, 7))[j] for row, j in zip(cosine, own, strict=True)]
    assert measure.retrieval_ranks(query, candidates, own) == pytest.approx(expected)


def test_a_state_that_is_the_same_for_all_finds_profiles_at_chance(rng):
    candidates = rng.normal(size=(200, 8))
    query = np.ones((200, 8))
    found = measure.retrieval_at_k(query, candidates, np.arange(200), 10)
    assert found == pytest.approx(measure.chance_at_k(200, 10), abs=1e-9)
    nothing = measure.retrieval_ranks(np.zeros((3, 8)), candidates, np.arange(3))
    assert (nothing == 100.5).all()


def test_retrieval_of_the_vectors_themselves_is_perfect(rng):
    x = rng.normal(size=(50, 5))
    assert measure.retrieval_at_k(x, x, np.arange(50), 1) == 1.0
    assert measure.chance_at_k(5, 10) == 1.0


def test_linear_cka_is_hsic_over_the_norms(rng):
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 9))
    y[:, :2] += 2 * x[:, :2]
    h = np.eye(20) - 1 / 20
    left, right = h @ x @ x.T @ h, h @ y @ y.T @ h
    expected = (left * right).sum() / np.sqrt((left * left).sum() * (right * right).sum())
    assert measure.linear_cka(x, y) == pytest.approx(expected)
    turned = 3 * x @ ortho_group.rvs(4, random_state=1) + 5
    assert measure.linear_cka(x, turned) == pytest.approx(1.0)
    assert np.isnan(measure.linear_cka(x, np.ones((20, 2))))


def test_neighbour_overlap_against_a_loop(rng):
    x, y = rng.normal(size=(25, 3)), rng.normal(size=(25, 5))
    y[:, :3] += x

    def near(z, i):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        others = [(-(z[i] @ z[j]), j) for j in range(len(z)) if j != i]
        return {j for _, j in sorted(others)[:4]}

    expected = np.mean([len(near(x, i) & near(y, i)) / 4 for i in range(25)])
    assert measure.neighbour_overlap(x, y, 4) == pytest.approx(expected)
    assert measure.neighbour_overlap(x, 2 * x, 4) == 1.0


def test_cross_decode_is_ridge_on_the_other_folds(rng):
    x = rng.normal(size=(33, 6)) * [1, 10, 0.1, 1, 1, 0] + 3
    y = x[:, :2] @ rng.normal(size=(2, 4)) + rng.normal(size=(33, 4))
    fold = folds_of(33, 4, 9)
    expected = np.empty_like(y)
    for f in range(4):
        train, test = fold != f, fold == f
        sd = x[train].std(0)
        scale = np.where(sd > 0, sd, 1)
        fitted = Ridge(alpha=2.5).fit((x[train] - x[train].mean(0)) / scale, y[train])
        expected[test] = fitted.predict((x[test] - x[train].mean(0)) / scale)
    assert measure.cross_decode(x, y, folds=4, seed=9, penalty=2.5) == pytest.approx(expected)
    assert np.bincount(fold).tolist() == [9, 8, 8, 8]


def test_linear_probe_is_scikit_learn_s_ridge_classifier(rng):
    label = np.repeat([0, 1, 2], [25, 20, 15])
    x = rng.normal(size=(60, 5))
    x[:, :3] += 1.5 * np.eye(3)[label]
    fold = folds_of(60, 5, 2)
    right = 0
    for f in range(5):
        train, test = fold != f, fold == f
        mean, sd = x[train].mean(0), x[train].std(0)
        fitted = RidgeClassifier(alpha=3.0).fit((x[train] - mean) / sd, label[train])
        right += (fitted.predict((x[test] - mean) / sd) == label[test]).sum()
    found = measure.linear_probe(x, label, folds=5, seed=2, penalty=3.0)
    assert found["accuracy"] == pytest.approx(right / 60)
    assert found["majority"] == pytest.approx(25 / 60)
    assert found["accuracy"] > 0.6


def test_clusters_find_separate_groups_and_know_a_constant(rng):
    truth = np.arange(60) % 4
    x = 20 * np.eye(4)[truth] + rng.normal(size=(60, 4))
    label = measure.clusters(x, 4, 0)
    assert len({(a, b) for a, b in zip(label, truth, strict=True)}) == 4
    assert np.array_equal(label, measure.clusters(x, 4, 0))
    assert (measure.clusters(np.ones((9, 2)), 4, 0) == 0).all()


LIMITS = {"rank_below": 2.0, "variance_below": 0.01}


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ((30, 1.0), (25, 0.5), None),
        ((30, 1.0), (1.3, 0.5), "effective rank fell from 30.0 to 1.30"),
        ((30, 1.0), (25, 0.001), "variance fell to 1.0e-03"),
        ((0, 0.0), (0, 0.0), None),  # a constant placebo was flat to begin with
        ((1.2, 1.0), (1.1, 0.5), None),
    ],
)
def test_collapse_is_a_fall_below_the_limit(start, end, words):
    found = measure.collapse("profiles", start, end, **LIMITS)
    assert found is None if words is None else words in found
