"""Lists against the student's own serving scores; what is drawn, and who contributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.list_head import ListHead, last_prediction
from recbole_kd.models.mixin import padded_batch
from tests.objectives.cases import defaults
from tests.students import BACKBONES, MAX_LEN, distill_spec, sequences, student

ITEMS = torch.tensor([[0, 0, 0], [4, 9, 2], [7, 1, 0], [0, 0, 0], [3, 8, 5]])
SCORE = torch.tensor([[0.0, 0, 0], [3, 2, 1], [2, 1, 0], [0, 0, 0], [1, 0.5, 0.2]])


def _spec(objective, **changes):
    return distill_spec(objective=objective, objective_args={**defaults(objective), **changes})


def _head(objective, **changes):
    return ListHead(_spec(objective, **changes), ITEMS, SCORE, (ITEMS > 0).any(1), 30, seed=1)


def _batch(model, rows):
    batches = SequenceBatches(sequences(rows), MAX_LEN, 4, shift=model.shift, packed=model.packed)
    return next(batches.epoch(np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_training_scores_are_the_serving_scores_of_the_last_input(name):
    """A next-item model sees items 0..n-2; its score there is what it would serve after them."""
    model = student(name)
    rows = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    batch = _batch(model, rows)
    layers = model.encode(batch, None)
    state = model.final(layers[-1][last_prediction(batch)])
    for p, user in enumerate(batch.user.tolist()):
        history = torch.tensor([rows[user - 1][:-1]])
        padded = torch.nn.functional.pad(history, (0, MAX_LEN - history.shape[1]))
        want = model.serve_states(padded, torch.tensor([history.shape[1]]))[0]
        torch.testing.assert_close(state[p], want, rtol=1e-4, atol=1e-5)


def test_a_masked_model_is_asked_where_its_last_item_is_hidden():
    model = student("BERT4Rec")
    rows = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    batch = model.prepare(_batch(model, rows), np.random.default_rng(3))
    row, column = last_prediction(batch)
    assert (batch.item_seq[row, column] == model.mask_token).all()
    for p in range(len(batch.length)):
        hidden = batch.position[(batch.segment == p) & (batch.target > 0)]
        assert int(batch.position[row[p], column[p]]) == int(hidden.max())
        assert int(batch.segment[row[p], column[p]]) == p


def test_without_targets_it_is_the_last_item():
    item_seq = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]])
    row, column = last_prediction(padded_batch(item_seq, torch.tensor([3, 1])))
    assert row.tolist() == [0, 1]
    assert column.tolist() == [2, 0]


@pytest.mark.parametrize("objective", ["kl", "ranking_distillation", "relaxed_ranking", "dllm2rec"])
def test_users_without_a_list_contribute_nothing(objective):
    changes = {} if objective in ("kl", "ranking_distillation") else {"others": 1}
    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = _head(objective, **changes)(scores, torch.tensor([1, 3, 4, 0]))
    loss.backward()
    assert float(loss.detach()) > 0
    assert bool((scores.grad[[1, 3]] == 0).all())
    assert bool((scores.grad[[0, 2]] != 0).any(1).all())
    nobody = _head(objective)(scores, torch.tensor([0, 3, 0, 3]))
    assert float(nobody.detach()) == 0


def test_drawn_items_are_outside_the_list_and_follow_the_seed():
    user = torch.tensor([1, 2, 4] * 50)
    first, again = _head("relaxed_ranking"), _head("relaxed_ranking")
    others = first._kept(ITEMS[user], SCORE[user]).others
    assert torch.equal(others, again._kept(ITEMS[user], SCORE[user]).others)
    assert others.shape == (150, 40)
    assert not bool(((others[:, :, None] == ITEMS[user][:, None, :]).any(2) & (others > 0)).any())
    counts = torch.bincount(others.flatten(), minlength=30)
    assert int(counts[1:].min()) > 100
    assert int(counts[0]) > 0


def test_interesting_items_are_drawn_by_place_and_keep_their_order():
    items = torch.arange(1, 21).repeat(400, 1)
    head = _head("relaxed_ranking", interesting=5, interesting_decay=4.0)
    kept = head._kept(items, -items.float()).items
    assert kept.shape == (400, 5)
    assert bool((kept.diff(dim=1) > 0).all())
    share = torch.bincount(kept.flatten(), minlength=21)[1:].float()
    assert share[0] > 3 * share[10] > 0
    assert share[:5].sum() > 2 * share[10:15].sum()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("objective", ["kl", "ranking_distillation", "relaxed_ranking", "dllm2rec"])
def test_every_backbone_takes_lists_and_drops_them(name, objective):
    model = student(name)
    before = set(model.student_state())
    model.attach_lists(_spec(objective), ITEMS, SCORE, (ITEMS > 0).any(1), 0)
    model.train()
    batch = _batch(model, [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12], [1, 5, 9]])
    loss_rec, loss_distil = model.sequence_losses(batch, None, np.random.default_rng(0), distil=True)
    (loss_rec + loss_distil).backward()
    assert bool(torch.isfinite(loss_distil))
    assert float(model.item_embedding.weight.grad.abs().sum()) > 0
    assert set(model.student_state()) == before
