"""Pop, ItemKNN, EASE^R and the nearest items to a profile, against RecBole's classes and plain algebra."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_kd.baselines.ease import closed_form
from recbole_kd.baselines.run import fit_computed, rank_computed
from recbole_kd.errors import SpecError
from recbole_kd.models.side import SideInputs
from recbole_kd.training.spec import StudentSpec
from tests.students import student_spec, tiny_split


def spec(model, **hparams):
    return StudentSpec(model=model, hparams=hparams, train=student_spec("SASRec").train, distill=None)


def fitted(split, model, side=None, **hparams):
    return fit_computed(split, spec(model, **hparams), side=side or SideInputs(split.dataset.n_users))


def recbole_class(module, name, split, **config):
    """RecBole's own model over the train part of a split."""
    recommender = pytest.importorskip(f"recbole.model.general_recommender.{module}")
    train, n_users = split.train, split.dataset.n_users
    users = np.repeat(train.users, train.lengths)
    matrix = sp.csr_matrix(
        (np.ones(len(users)), (users, train.items)), shape=(n_users, split.dataset.n_items)
    )
    matrix.data[:] = 1.0
    sizes = {"user_id": n_users, "item_id": split.dataset.n_items}
    dataset = SimpleNamespace(num=sizes.__getitem__, inter_matrix=lambda form: matrix)

    class Config(dict):
        device = torch.device("cpu")

    fields = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "device": Config.device,
    }
    return getattr(recommender, name)(Config(fields | config), dataset)


def scores_of(model, users, n_items):
    return model.full_sort_predict({"user_id": torch.as_tensor(users)}).reshape(len(users), n_items)


def test_ease_solves_the_constrained_regression():
    rng = np.random.default_rng(0)
    x, weight = (rng.random((40, 7)) < 0.4).astype(np.float64), 3.0
    found = closed_form((x.T @ x).astype(np.float32), weight)
    expected = np.zeros((7, 7))
    for j in range(7):
        # Ridge regression of column j on the others: diag(B) = 0 is "not on itself".
        rest = [i for i in range(7) if i != j]
        a = x[:, rest]
        expected[rest, j] = np.linalg.solve(a.T @ a + weight * np.eye(6), a.T @ x[:, j])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "hparams", "config"),
    [
        ("ease", "EASE", {"reg_weight": 5.0}, {"reg_weight": 5.0}),
        ("itemknn", "ItemKNN", {"k": 6, "shrink": 1.5}, {"k": 6, "shrink": 1.5, "knn_method": "item"}),
    ],
)
def test_equals_recbole_on_the_train_histories(module, name, hparams, config):
    split = tiny_split()
    _, scorer = fitted(split, name, **hparams)
    # In this split the validation history is the train history, which is what RecBole scores.
    part = split.valid
    ours = scorer.score(part, slice(0, len(part)))
    theirs = scores_of(
        recbole_class(module, name, split, **config), part.history.users, split.dataset.n_items
    )
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


def test_pop_equals_recbole():
    split = tiny_split()
    _, scorer = fitted(split, "Pop")
    model = recbole_class("pop", "Pop", split)
    for item in split.train.items:
        # RecBole counts one per batch and item, so a batch holds one interaction here.
        model.calculate_loss({"item_id": torch.tensor([item])})
    theirs = scores_of(model, [1, 2], split.dataset.n_items)
    ours = scorer.score(split.valid, slice(0, 2))
    torch.testing.assert_close(ours / ours.max(), theirs.float())


def test_a_user_whom_training_never_saw_is_served_by_history():
    split = tiny_split()
    _, scorer = fitted(split, "EASE", reg_weight=5.0)
    newer = scorer.score(split.test, slice(0, 3))
    assert not torch.equal(newer, scorer.score(split.valid, slice(0, 3)))


def test_run_reports_one_epoch_and_its_validation():
    split = tiny_split()
    result, scorer = fitted(split, "ItemKNN", k=10, shrink=0.0)
    ranks = rank_computed(scorer, split.valid, batch_size=7)
    hits = (1 / np.log2(1 + ranks.rank)) * (ranks.rank <= 10)
    assert result.history[0]["valid_ndcg@10"] == pytest.approx(hits.mean(), abs=1e-6)
    assert (result.epochs, result.best_epoch, result.stopped_early) == (1, 1, True)


def side_of(split, encoder="a", width=5):
    rng = torch.Generator().manual_seed(0)
    items = torch.randn(split.dataset.n_items, 5, generator=rng)
    users = torch.randn(split.dataset.n_users, width, generator=rng)
    items[0] = users[0] = 0
    users[3] = 0
    said = {
        name: {"encoder": {"kind": "transformers", "model": e}}
        for name, e in (("items", "a"), ("users", encoder))
    }
    return SideInputs(split.dataset.n_users, items, users, said, {})


def test_nearest_items_by_centred_cosine():
    split = tiny_split()
    side = side_of(split)
    _, scorer = fitted(split, "ProfileNearest", side, centre=True)
    scores = scorer.score(split.test, slice(0, 5))
    items, users = side.items.numpy(), side.users.numpy()
    known = [u for u in range(1, split.dataset.n_users) if u != 3]
    z = users[2] - users[known].mean(0)
    t = items[4] - items[1:].mean(0)
    assert scores[1, 4] == pytest.approx(z @ t / np.linalg.norm(z) / np.linalg.norm(t), abs=1e-5)
    assert not scores[2].any()  # user 3 has no profile


@pytest.mark.parametrize(("encoder", "width", "said"), [("b", 5, "one encoder"), ("a", 6, "dimensions")])
def test_nearest_items_refuse_two_spaces(encoder, width, said):
    split = tiny_split()
    with pytest.raises(SpecError, match=said):
        fitted(split, "ProfileNearest", side_of(split, encoder, width), centre=True)
