"""What RecBole's BERT4Rec gets wrong and ours must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import scipy.stats
import torch

from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.dropout import ByteDropout
from tests.students import MAX_LEN, sequences, student


def _scores(model, items: list[int]) -> torch.Tensor:
    item_seq = torch.zeros(1, MAX_LEN, dtype=torch.long)
    item_seq[0, : len(items)] = torch.tensor(items)
    return model.full_sort_predict({"item_id_list": item_seq, "item_length": torch.tensor([len(items)])})


@torch.no_grad()
def test_the_first_item_counts_and_one_item_is_enough():
    model = student("BERT4Rec")
    assert not torch.allclose(_scores(model, [3]), _scores(model, [4]))
    assert not torch.allclose(_scores(model, [3, 7, 9]), _scores(model, [4, 7, 9]))


@torch.no_grad()
def test_a_full_row_loses_only_its_oldest_item():
    model = student("BERT4Rec")
    row = list(range(1, MAX_LEN + 1))
    torch.testing.assert_close(_scores(model, row), _scores(model, row[1:]))
    assert not torch.allclose(_scores(model, row), _scores(model, [row[0], 25, *row[2:]]))


def test_every_train_item_is_hidden_sooner_or_later_and_every_piece_carries_a_loss():
    model = student("BERT4Rec", mask_ratio=0.2, ft_ratio=0.3)
    rows = [[1, 2, 3, 4, 5, 6], [7], [8, 9]]
    batches = SequenceBatches(sequences(rows), MAX_LEN, 4, shift=False, packed=True)
    rng = np.random.default_rng(0)
    seen: Counter[int] = Counter()
    for _ in range(400):
        for batch in batches.epoch(rng):
            prepared = model.prepare(batch, rng)
            hidden = prepared.target > 0
            seen.update(prepared.target[hidden].tolist())
            assert bool((prepared.item_seq[hidden] == model.mask_token).all())
            kept = ~hidden & (prepared.segment < len(batch.user))
            assert bool((prepared.item_seq[kept] == batch.item_seq[kept]).all())
            assert set(batch.segment[hidden].tolist()) == set(range(len(batch.user)))
    assert set(seen) == set(range(1, 10))
    # item 1 is hidden with (1 - ft_ratio) * mask_ratio = .14; item 6 also as the end, or if nothing else is
    assert 0.11 < seen[1] / 400 < 0.18
    last = 0.3 / 5 + 0.7 * (0.2 + 0.8**6)
    assert abs(seen[6] / 400 - last) < 0.08


def test_all_items_of_a_history_are_made_the_last_alike():
    """RecBole's prefixes end anywhere; whole histories would only ever ask for their last items."""
    model = student("BERT4Rec", mask_ratio=0.2, ft_ratio=1.0)
    batches = SequenceBatches(sequences([[1, 2, 3, 4, 5, 6]]), MAX_LEN, 4, shift=False, packed=True)
    rng = np.random.default_rng(0)
    seen: Counter[int] = Counter()
    for _ in range(1000):
        (batch,) = (model.prepare(b, rng) for b in batches.epoch(rng))
        (asked,) = batch.target[batch.target > 0].tolist()
        row = batch.item_seq[0].tolist()
        assert row == [*range(1, asked), model.mask_token, *[0] * (MAX_LEN - asked)]
        assert batch.length.tolist() == [asked]
        assert batch.segment[0].tolist() == [0] * asked + [1] * (MAX_LEN - asked)
        seen[asked] += 1
    assert sorted(seen) == [2, 3, 4, 5, 6]
    assert scipy.stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_a_piece_inside_a_history_is_asked_for_its_last_item():
    model = student("BERT4Rec", mask_ratio=0.2, ft_ratio=1.0)
    rows = [list(range(1, 3 * MAX_LEN))]
    batches = SequenceBatches(sequences(rows), MAX_LEN, 8, shift=False, packed=True)
    rng = np.random.default_rng(0)
    for _ in range(20):
        for batch in batches.epoch(rng):
            prepared = model.prepare(batch, rng)
            for p, (start, length) in enumerate(
                zip(batch.start.tolist(), batch.length.tolist(), strict=True)
            ):
                asked = prepared.target[(batch.segment == p) & (prepared.target > 0)].tolist()
                ends = start + length == len(rows[0])
                assert len(asked) == 1
                assert ends or asked == [rows[0][start + length - 1]]


def test_the_last_block_at_masked_positions_is_the_last_block():
    """Same states and same gradients as the whole block, of which the masked positions are then taken."""
    model = student("BERT4Rec").double()  # in float32 some gradients are mere rounding on AVX512
    batches = SequenceBatches(
        sequences([[1, 2, 3, 4, 5, 6], [7], [8, 9], [3, 5, 7, 9]]), MAX_LEN, 4, shift=False, packed=True
    )
    rng = np.random.default_rng(3)
    for batch in batches.epoch(rng):
        batch = model.prepare(batch, rng)
        at = batch.target > 0
        grads = []
        for states in (model.target_states(batch, at, None), model.final(model.encode(batch, None)[-1][at])):
            model.zero_grad()
            (states * torch.arange(states.shape[1])).square().sum().backward()
            grads.append((states.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
        torch.testing.assert_close(grads[0][0], grads[1][0])
        torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-5)


def test_the_last_block_at_masked_positions_has_the_dropout_of_the_whole_block():
    model = student("BERT4Rec", hidden_dropout_prob=0.3, attn_dropout_prob=0.4).train()
    batches = SequenceBatches(
        sequences([[1, 2, 3, 4, 5, 6], [7], [8, 9], [3, 5, 7, 9]]), MAX_LEN, 4, shift=False, packed=True
    )
    rng, part, whole = np.random.default_rng(3), ByteDropout(1), ByteDropout(1)
    for batch in (b for _ in range(3) for b in batches.epoch(rng)):
        batch = model.prepare(batch, rng)
        at = batch.target > 0
        states = model.target_states(batch, at, part)
        torch.testing.assert_close(states, model.final(model.encode(batch, whole)[-1][at]))
