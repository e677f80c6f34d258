"""What RecBole's BERT4Rec gets wrong and ours must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from recbole_kd.models.batch import SequenceBatches
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
            assert bool((prepared.item_seq[~hidden] == batch.item_seq[~hidden]).all())
            assert set(batch.segment[hidden].tolist()) == set(range(len(batch.user)))
    assert set(seen) == set(range(1, 10))
    # item 1 is hidden with (1 - ft_ratio) * mask_ratio = .14; item 6 also when it is last or nothing else is
    assert 0.11 < seen[1] / 400 < 0.18
    last = 0.3 + 0.7 * (0.2 + 0.8**6)
    assert abs(seen[6] / 400 - last) < 0.08


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
