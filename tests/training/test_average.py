"""Averaged weights against the recursion written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_kd.ranking import rank_targets
from recbole_kd.training.average import WeightAverage
from recbole_kd.training.fit import fit
from tests.students import BACKBONES, MAX_LEN, student_spec, tiny_split


def _set(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_the_average_follows_the_recursion():
    model = nn.Linear(1, 1, bias=False)
    _set(model, 1.0)
    average = WeightAverage(model, decay=0.3)
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, -3.0, 4.0), start=1):
        _set(model, value)
        average.update()
        d = min(0.3, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0


def test_the_trained_weights_come_back_after_an_error():
    model = nn.Linear(1, 1, bias=False)
    _set(model, 1.0)
    average = WeightAverage(model, decay=0.9)
    _set(model, 7.0)
    average.update()
    with pytest.raises(ZeroDivisionError), average.in_place():
        1 / (model.weight.item() - model.weight.item())
    assert model.weight.item() == 7.0


def test_decay_zero_validates_the_trained_weights():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.0)
    _set(model, 3.0)
    average.update()
    with average.in_place():
        assert model.weight.item() == 3.0


@pytest.mark.parametrize("name", BACKBONES)
def test_averaging_changes_what_is_kept_but_not_how_it_trains(name):
    split = tiny_split()
    last, kept = (
        fit(
            split,
            student_spec(name, weight_average=decay),
            None,
            seed=1,
            device="cpu",
            max_item_list_length=MAX_LEN,
        )
        for decay in (0.0, 0.8)
    )
    assert [r["loss_rec"] for r in last.history] == [r["loss_rec"] for r in kept.history]
    assert any(not torch.equal(last.state_dict[k], kept.state_dict[k]) for k in last.state_dict)
    # the kept model is the one whose validation value stands in the history
    rank = rank_targets(kept.model, split.valid, max_len=MAX_LEN, batch_size=16).rank
    ndcg = float(np.mean(np.where(rank <= 10, 1 / np.log2(1 + rank), 0)))
    assert ndcg == pytest.approx(kept.history[kept.best_epoch - 1]["valid_ndcg@10"], rel=1e-6)
