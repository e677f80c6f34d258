"""Two-phase training: what must be identical is identical, what must differ differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.metrics import per_user
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.sasrec import SASRecKD
from recbole_kd.ranking import rank_targets
from recbole_kd.training.attach import attach
from recbole_kd.training.fit import fit
from recbole_kd.training.run import Streams
from tests.students import BACKBONES, MAX_LEN, distill_spec, student_spec, tiny_split


@pytest.fixture(scope="module")
def split():
    return tiny_split()


@pytest.fixture(scope="module")
def profiles(split):
    rng = np.random.default_rng(0)
    n = split.dataset.n_users
    mask = np.ones((n, 1), bool)
    mask[0] = False
    vectors = rng.normal(size=(n, 1, 10)).astype(np.float32)
    return ProfileTable(vectors=vectors, mask=mask, manifest={}, coverage=1.0, digest="x")


def _fit(split, spec, profiles=None, seed=1):
    result = fit(split, spec, profiles, seed=seed, device="cpu", max_item_list_length=MAX_LEN)
    ranks = rank_targets(result.model, split.test, max_len=MAX_LEN, batch_size=16)
    return result, ranks


@pytest.mark.parametrize("name", BACKBONES)
def test_alpha_zero_is_the_plain_backbone_rank_for_rank(name, split, profiles):
    plain, plain_ranks = _fit(split, student_spec(name))
    zero, zero_ranks = _fit(split, student_spec(name, distill_spec(alpha=0.0)), profiles)
    assert np.array_equal(plain_ranks.rank, zero_ranks.rank)
    assert np.array_equal(plain_ranks.rank_masked, zero_ranks.rank_masked)
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in zero.history]
    assert {r["phase"] for r in zero.history} == {"plain"}


@pytest.mark.parametrize("name", BACKBONES)
def test_plain_and_distilled_share_batches_masks_and_dropout(name, split, profiles):
    """Until the teacher has moved a weight their losses are equal, and their streams go on alike."""
    found = []
    for distil in (False, True):
        spec = student_spec(name, distill_spec() if distil else None)
        model = build_student(
            spec.model, spec.hparams, n_items=split.dataset.n_items, max_len=MAX_LEN, seed=1, device="cpu"
        )
        attach(model, split, spec, profiles if distil else None, 1, "cpu")
        model.train()
        streams = Streams.of(1)
        batches = SequenceBatches(split.train, MAX_LEN, 8, shift=model.shift, packed=model.packed)
        losses = [
            float(model.sequence_losses(batch, streams.dropout, streams.masks, distil=distil)[0])
            for batch in batches.epoch(streams.batches)
        ]
        found.append((losses, str(streams.state_dict())))
    (plain, after), (taught, also_after) = found
    assert len(plain) > 2
    assert taught == pytest.approx(plain, rel=1e-5)
    assert after == also_after


@pytest.mark.parametrize("name", BACKBONES)
def test_same_seed_same_ranks_other_seed_other_ranks(name, split, profiles):
    spec = student_spec(name, distill_spec(pooling="attention"))
    first, second, third = (_fit(split, spec, profiles, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first[1].rank, second[1].rank)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first[0].state_dict.values(), second[0].state_dict.values(), strict=True)
    )
    assert not np.array_equal(first[1].rank, third[1].rank)


@pytest.mark.parametrize("name", BACKBONES)
def test_phases_follow_the_spec_and_distillation_moves_its_loss(name, split, profiles):
    spec = student_spec(name, distill_spec(distil_epochs=6, alpha=0.8), epochs=8)
    result, _ = _fit(split, spec, profiles)
    assert [r["phase"] for r in result.history] == ["distil"] * 6 + ["fine-tune"] * 2
    losses = [r["loss_distil"] for r in result.history]
    assert losses[5] < losses[0]
    assert np.isnan(losses[6:]).all()
    first = result.history[0]
    assert first["loss"] == pytest.approx(0.8 * first["loss_distil"] + 0.2 * first["loss_rec"], rel=1e-5)


def test_scaled_loss_has_the_value_of_the_recommendation_loss(split, profiles):
    """With beta, alpha * beta * L_distil = alpha * L_rec in value, so L = L_rec (ECIR 2026, beta on)."""
    result, _ = _fit(split, student_spec("SASRec", distill_spec(scale_distil_loss=True)), profiles)
    first = result.history[0]
    assert first["loss"] == pytest.approx(first["loss_rec"], rel=1e-5)


def test_nobody_has_a_profile_is_the_plain_loss(split, profiles):
    nobody = ProfileTable(
        vectors=profiles.vectors, mask=np.zeros_like(profiles.mask), manifest={}, coverage=0.0, digest="x"
    )
    plain, _ = _fit(split, student_spec("SASRec"))
    empty, _ = _fit(split, student_spec("SASRec", distill_spec(alpha=0.5)), nobody)
    assert [r["loss_rec"] for r in empty.history] == pytest.approx([r["loss_rec"] for r in plain.history])


@pytest.mark.parametrize("name", BACKBONES)
def test_it_learns(name, split):
    """The ring's next step is learnable: far better than the 29 items' chance."""
    result, ranks = _fit(split, student_spec(name, epochs=60, stopping_step=60))
    assert (ranks.rank <= 5).mean() > 2 * 5 / 29
    assert result.history[-1]["loss_rec"] < 0.95 * result.history[0]["loss_rec"]


def test_stops_early_and_keeps_the_best_epoch(split):
    result, _ = _fit(split, student_spec("GRU4Rec", epochs=200, stopping_step=3, learning_rate=0.05))
    values = [r["valid_ndcg@10"] for r in result.history]
    assert result.stopped_early
    assert result.epochs == len(values) < 200
    assert result.best_epoch == 1 + int(np.argmax(values)) == result.epochs - 3
    valid = rank_targets(result.model, split.valid, max_len=MAX_LEN, batch_size=16)
    assert per_user(valid.rank, "NDCG@10").mean() == pytest.approx(max(values))


def test_a_loss_that_explodes_is_an_error(split):
    with pytest.raises(FloatingPointError, match="loss became"):
        _fit(split, student_spec("SASRec", learning_rate=1e30, epochs=3))


def test_anomaly_detection_left_on_by_others_is_off_while_training(split, monkeypatch):
    seen = []
    original = SASRecKD.total_loss
    monkeypatch.setattr(
        SASRecKD, "total_loss", lambda *a: seen.append(torch.is_anomaly_enabled()) or original(*a)
    )
    with torch.autograd.set_detect_anomaly(True):
        _fit(split, student_spec("SASRec", epochs=1))
        assert torch.is_anomaly_enabled()
    assert seen
    assert not any(seen)
