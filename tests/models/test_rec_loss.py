"""Losses over a part of the catalogue, against full softmax, loops and by hand; the tiled softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_kd.errors import SpecError
from recbole_kd.models.rec_loss import gbce_beta, make_rec_loss
from recbole_kd.models.tiled_cross_entropy import exact_cross_entropy, tiled_cross_entropy
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import GbceSpec, InBatchSpec, SampledSoftmaxSpec, loss_label
from tests.students import BACKBONES, MAX_LEN, student_spec, tiny_split

V, T, E = 30, 17, 6


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    state = torch.randn(T, E, dtype=torch.float64, requires_grad=True)
    items = torch.randn(V, E, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    return state, items, torch.randint(1, V, (T,)), bias


def bound(spec, counts=None, seed=3):
    return make_rec_loss(spec, torch.ones(V, dtype=torch.int64) if counts is None else counts, seed, "cpu")


def assert_same(got, want, over):
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(2 * got, over), torch.autograd.grad(2 * want, over), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("columns", [1, 7, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_tiles_give_the_value_and_gradients_of_torch(inputs, rows, columns, with_bias):
    state, items, target, bias = inputs
    bias = bias if with_bias else None
    logits = state @ items.t() + (bias if with_bias else 0)
    got = tiled_cross_entropy(state, items, target, bias, rows=rows, columns=columns)
    assert_same(got, F.cross_entropy(logits, target), [x for x in (state, items, bias) if x is not None])


def test_a_large_catalogue_is_tiled_within_float32_tolerance(monkeypatch):
    monkeypatch.setattr("recbole_kd.models.tiled_cross_entropy.TILE_BYTES", {"cpu": 2048})
    torch.manual_seed(1)
    # In float64: on AVX512 the sums of either side in float32 are off by more than the bound.
    state, items = (torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (600, 997))
    target = torch.randint(1, 997, (600,))
    want = F.cross_entropy(state @ items.t(), target)
    got = exact_cross_entropy(state, items, target)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(got, (state, items)), torch.autograd.grad(want, (state, items)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert exact_cross_entropy(state[:0], items, target[:0]) == 0


def test_every_item_as_a_negative_is_the_full_softmax(inputs):
    state, items, target, bias = inputs
    loss = bound(SampledSoftmaxSpec(name="sampled-softmax", negatives=V - 1, log_q=True))
    want = F.cross_entropy((state @ items.t() + bias)[:, 1:], target - 1)
    assert_same(loss(state, items, target, bias), want, (state, items, bias))


@pytest.mark.parametrize("log_q", [True, False])
def test_sampled_softmax_against_a_loop(inputs, log_q):
    state, items, target, _ = inputs
    loss = bound(SampledSoftmaxSpec(name="sampled-softmax", negatives=8, log_q=log_q))
    got = loss(state, items, target, None)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(1, V, (8,), generator=generator).tolist()
    want = 0.0
    for row, goal in zip(state.tolist(), target.tolist(), strict=True):
        score = [sum(a * b for a, b in zip(row, item, strict=True)) for item in items.tolist()]
        weight = (V - 1) / 8 if log_q else 1.0
        rest = sum(weight * math.exp(score[j]) for j in drawn if j != goal)
        want -= math.log(math.exp(score[goal]) / (math.exp(score[goal]) + rest)) / T
    assert got.item() == pytest.approx(want)


def test_the_weighted_negatives_estimate_the_catalogue(inputs):
    state, items, target, _ = inputs
    loss = bound(SampledSoftmaxSpec(name="sampled-softmax", negatives=20, log_q=True))
    full = F.cross_entropy((state @ items.t())[:, 1:], target - 1).item()
    own = (state * items[target]).sum(1)
    # exp of (loss + own) is an unbiased estimate of the denominator, position by position.

    def estimate(t):
        return (loss(state[t : t + 1], items, target[t : t + 1], None) + own[t]).exp()

    drawn = [torch.stack([estimate(t) for t in range(3)]) for _ in range(1200)]
    want = (state[:3] @ items[1:].t()).exp().sum(1)
    torch.testing.assert_close(torch.stack(drawn).mean(0), want, rtol=0.1, atol=0)
    assert full > 0


def test_in_batch_with_log_q_against_a_loop(inputs):
    state, items, _, bias = inputs
    target = torch.tensor([3, 3, 5, 9, 9, 9, 2, 1, 4, 4, 3, 8, 8, 7, 6, 6, 2])
    counts = torch.arange(V) + 1
    got = bound(InBatchSpec(name="in-batch", log_q=True), counts)(state, items, target, bias)
    frequency = counts.double() / counts.sum()
    want = 0.0
    for t, goal in enumerate(target.tolist()):
        score = {j: (state[t] @ items[j] + bias[j]).exp() / frequency[j] for j in set(target.tolist())}
        want = want - torch.log(score[goal] / sum(score.values())) / T
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_gbce_by_hand():
    state, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 9.0], [2.0, 1.0], [-1.0, 3.0], [0.5, 0.0]])
    loss = make_rec_loss(
        GbceSpec(name="gbce", negatives=3, calibration=0.75), torch.ones(4, dtype=torch.int64), 0, "cpu"
    )
    # Every real item is a negative, the target (1) does not count: s+ = 2, s- = -1 and 0.5; 3 items, K = 3.
    # a = 1 (no more than all of them), so beta = 1 whatever t.
    sigma = [1 / (1 + math.exp(-s)) for s in (2.0, -1.0, 0.5)]
    want = -(math.log(sigma[0]) + math.log(1 - sigma[1]) + math.log(1 - sigma[2])) / 4
    assert loss(state, items, torch.tensor([1]), None).item() == pytest.approx(want, rel=1e-6)


def test_gbce_raises_the_positive_to_the_power_beta(inputs):
    state, items, target, _ = inputs
    calibrated = bound(GbceSpec(name="gbce", negatives=4, calibration=1.0))(state, items, target, None)
    plain = bound(GbceSpec(name="gbce", negatives=4, calibration=0.0))(state, items, target, None)
    log_positive = F.logsigmoid((state * items[target]).sum(1)).mean()
    beta = 4 / (V - 2)
    torch.testing.assert_close(plain - calibrated, -(1 - beta) * log_positive / 5)


def test_beta_formula():
    # K = 2 of 9 other items: a = 2/9; t = .75: 2/9 (.75 (1 - 4.5) + 4.5) = 2/9 * 1.875
    assert gbce_beta(2, 10, 0.75) == pytest.approx(2 / 9 * 1.875)
    assert gbce_beta(2, 10, 0.0) == pytest.approx(1.0)
    assert gbce_beta(2, 10, 1.0) == pytest.approx(2 / 9)


SPECS = [
    SampledSoftmaxSpec(name="sampled-softmax", negatives=12, log_q=True),
    InBatchSpec(name="in-batch", log_q=True),
    GbceSpec(name="gbce", negatives=12, calibration=0.75),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_trains_on_it_and_repeats_itself(name, spec):
    # One epoch of random masks is no trend: a masked model has twenty epochs, of which five are averaged.
    epochs, mean_of = (20, 5) if name == "BERT4Rec" else (2, 1)
    chosen = student_spec(name, loss=spec, epochs=epochs, stopping_step=epochs)
    runs = [
        fit(tiny_split(), chosen, None, seed=1, device="cpu", max_item_list_length=MAX_LEN) for _ in range(2)
    ]
    losses = [[row["loss"] for row in run.history] for run in runs]
    assert losses[0] == losses[1]
    assert np.mean(losses[0][-mean_of:]) < np.mean(losses[0][:mean_of])
    assert np.isfinite(losses).all()


def test_the_exact_loss_leaves_addresses_alone_and_another_one_is_named():
    plain, chosen = student_spec("SASRec").train, student_spec("SASRec", loss=SPECS[2]).train
    assert "loss" not in plain.canonical()
    assert chosen.canonical()["loss"] == {"name": "gbce", "negatives": 12, "calibration": 0.75}
    assert loss_label(SPECS[0]) == "sampled-softmax (negatives 12, log_q true)"


def test_a_model_with_a_loss_of_its_own_refuses():
    spec = student_spec("SASRec", loss=SPECS[0]).model_copy(
        update={"model": "BPR", "hparams": {"embedding_size": 8, "loss_type": "BPR"}}
    )
    with pytest.raises(SpecError, match="loss of its own"):
        fit(tiny_split(), spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN)
