"""Students against RecBole's own classes: the same scores, losses and state dicts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_kd.errors import SpecError
from recbole_kd.models import upstream
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import _RECBOLE_FIELDS, _Catalogue
from recbole_kd.models.mixin import padded_batch
from tests.students import BACKBONES, HPARAMS, MAX_LEN, distill_spec, sequences, student

LENGTHS = torch.tensor([1, 2, 5, MAX_LEN - 1, MAX_LEN, MAX_LEN])


def _interaction() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    item_seq = torch.randint(1, 30, (len(LENGTHS), MAX_LEN))
    item_seq[torch.arange(MAX_LEN) >= LENGTHS[:, None]] = 0
    return {
        "item_id_list": item_seq,
        "item_length": LENGTHS,
        "item_id": torch.randint(1, 30, (len(LENGTHS),)),
        "user_id": torch.arange(1, len(LENGTHS) + 1),
    }


def _plain_recbole(name: str):
    config = {
        **_RECBOLE_FIELDS,
        **HPARAMS[name],
        "MAX_ITEM_LIST_LENGTH": MAX_LEN,
        "device": torch.device("cpu"),
    }
    model = getattr(upstream, name)(config, _Catalogue(30))
    model.eval()
    return model


def _distilled(name: str):
    """Student with a head that has been trained for a step, as after phase 1."""
    model = student(name)
    vectors = torch.randn(50, 12)
    model.attach_teacher(distill_spec(pooling="attention"), vectors, torch.ones(50, dtype=torch.bool), seed=3)
    data = sequences([list(range(1, 12)), [4, 9, 2, 7]])
    batches = SequenceBatches(data, MAX_LEN, 4, shift=model.shift, packed=model.packed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches.epoch(np.random.default_rng(0)):
        losses = model.sequence_losses(batch, None, np.random.default_rng(0), distil=True)
        model.total_loss(*losses, 0.5).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", BACKBONES)
def test_without_its_head_it_is_plain_recbole(name):
    model = _distilled(name)
    assert any(k.startswith("distil_head.") for k in model.state_dict())
    plain = _plain_recbole(name)
    plain.load_state_dict(model.student_state(), strict=True)
    model.drop_head()
    assert list(model.state_dict()) == list(plain.state_dict())
    ours, theirs = _interaction(), _interaction()
    if name == "BERT4Rec":
        # RecBole 1.2.1 drops the first item of every history; give it one to drop where there is room.
        short = LENGTHS < MAX_LEN
        theirs["item_id_list"][short] = F.pad(theirs["item_id_list"][short], (1, 0), value=9)[:, :MAX_LEN]
        theirs["item_length"] = torch.where(short, LENGTHS + 1, LENGTHS)
    with torch.no_grad():
        assert torch.equal(model.full_sort_predict(ours), plain.full_sort_predict(theirs))
        torch.testing.assert_close(model.predict(ours), plain.predict(theirs))


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_fast_serving_path_equals_full_sort_predict(name):
    model, interaction = student(name), _interaction()
    items, bias = model.item_table()
    fast = model.serve_states(interaction["item_id_list"], interaction["item_length"]) @ items.t()
    fast = fast if bias is None else fast + bias
    torch.testing.assert_close(fast, model.full_sort_predict(interaction), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
@torch.no_grad()
def test_sequence_loss_is_the_mean_of_recboles_prefix_losses(name):
    """One pass per sequence gives what RecBole computes row by row over all prefixes."""
    model = student(name)
    rows = [[3, 8, 2, 11, 5, 6], [7, 1, 9], [4, 4, 12, 10, 2, 8, 1]]
    batches = SequenceBatches(sequences(rows), MAX_LEN, 10, shift=True, packed=model.packed)
    (batch,) = batches.epoch(np.random.default_rng(0))
    got, _ = model.sequence_losses(batch, None, np.random.default_rng(0), distil=False)
    prefixes = [(row[:k], row[k]) for row in rows for k in range(1, len(row))]
    interaction = {
        "item_id_list": torch.tensor([p + [0] * (MAX_LEN - len(p)) for p, _ in prefixes]),
        "item_length": torch.tensor([len(p) for p, _ in prefixes]),
        "item_id": torch.tensor([target for _, target in prefixes]),
    }
    torch.testing.assert_close(got, model.calculate_loss(interaction))


@torch.no_grad()
def test_masked_loss_is_recboles_bert4rec_loss():
    model = student("BERT4Rec", mask_ratio=0.5)
    rows = [[3, 8, 2, 11, 5, 6], [7, 1, 9, 13], [4, 4, 12, 10, 2, 8, 1]]
    (batch,) = SequenceBatches(sequences(rows), MAX_LEN, 10, shift=False, packed=True).epoch(
        np.random.default_rng(0)
    )

    class Chosen:
        """Hides item k of each piece where k is odd (RecBole never trains position 0)."""

        def random(self, size, dtype=None):
            return np.where(odd, 0.0, 1.0) if size == len(odd) else np.ones(size)

        def integers(self, low, high):
            return high - 1

    real = batch.segment < len(batch.length)
    odd = (batch.position[real] % 2 == 1).numpy()
    got, _ = model.sequence_losses(batch, None, Chosen(), distil=False)
    width = int(0.5 * MAX_LEN)
    masked, positives, index = [], [], []
    for row in rows:
        hidden = list(range(1, len(row), 2))
        masked.append(
            [model.mask_token if k in hidden else item for k, item in enumerate(row)]
            + [0] * (MAX_LEN - len(row))
        )
        positives.append([0] * (width - len(hidden)) + [row[k] for k in hidden])
        index.append([0] * (width - len(hidden)) + hidden)
    interaction = {
        "Mask_item_id_list": torch.tensor(masked),
        "Pos_item_id": torch.tensor(positives),
        "Neg_item_id": torch.tensor(positives),
        "MASK_INDEX": torch.tensor(index),
    }
    torch.testing.assert_close(got, model.calculate_loss(interaction))


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
@torch.no_grad()
def test_packing_changes_nothing(name):
    """Pieces that share a row see what they would see alone."""
    model = student(name)
    rows = [[3, 8, 2], [7, 1, 9, 5], [4, 4], [12, 10, 2, 8, 1, 6]]
    (batch,) = SequenceBatches(sequences(rows), MAX_LEN, 10, shift=False, packed=True).epoch(
        np.random.default_rng(1)
    )
    assert batch.item_seq.shape[0] < len(rows)
    packed = model.encode(batch, None)
    for p, user in enumerate(batch.user.tolist()):
        row = rows[user - 1]
        alone = torch.zeros(1, MAX_LEN, dtype=torch.long)
        alone[0, : len(row)] = torch.tensor(row)
        single = model.encode(padded_batch(alone, torch.tensor([len(row)])), None)
        for a, b in zip(packed, single, strict=True):
            torch.testing.assert_close(a[batch.segment == p], b[0, : len(row)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_prefix_mode_adds_the_distillation_term(name):
    """calculate_loss = alpha L_distil + (1 - alpha) L_rec with one forward pass of RecBole's own."""
    model, interaction = student(name), _interaction()
    if name == "BERT4Rec":
        interaction["Mask_item_id_list"] = interaction["item_id_list"]
        interaction["Pos_item_id"] = interaction["Neg_item_id"] = torch.randint(1, 30, (len(LENGTHS), 3))
        interaction["MASK_INDEX"] = torch.ones(len(LENGTHS), 3, dtype=torch.long)
    loss_rec = model.calculate_loss(interaction)
    vectors = torch.randn(50, 12)
    model.attach_teacher(distill_spec(alpha=0.3, layer=1), vectors, torch.ones(50, dtype=torch.bool), seed=3)
    batch = padded_batch(interaction["item_id_list"], interaction["item_length"], interaction["user_id"])
    layers = model.encode(batch, None)
    want = 0.3 * model.distil_loss(layers, batch) + 0.7 * loss_rec
    torch.testing.assert_close(model.calculate_loss(interaction), want, rtol=1e-4, atol=1e-5)
    model.distil_active = False
    torch.testing.assert_close(model.calculate_loss(interaction), loss_rec)
    model.distil_active = True
    for changes in ({"prefixes": "every"}, {"gradient_conflict": "pcgrad"}):
        model.attach_teacher(distill_spec(**changes), vectors, torch.ones(50, dtype=torch.bool), seed=3)
        with pytest.raises(SpecError, match=f"distill.{next(iter(changes))}.*use {next(iter(changes))}"):
            model.calculate_loss(interaction)


def test_importing_students_does_not_switch_anomaly_detection_on():
    """In a fresh process: here, other tests may have imported RecBole's models before."""
    code = (
        "import torch; from recbole_kd.models.build import student_class; "
        "student_class('SASRec'); raise SystemExit(int(torch.is_anomaly_enabled()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
