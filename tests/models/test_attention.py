"""Attention of a training step is that of serving, with dropout."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recbole_kd.models.batch import segment_mask
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.transformer import _context, _for_training


class Model:
    attn_dropout_prob = 0.5


def test_weights_of_a_training_step():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 2, 6, 5)
    segment = torch.tensor([[0, 0, 0, 1, 1, 4], [2, 2, 3, 3, 3, 3]]).repeat(2, 1)
    for causal in (True, False):
        seen = segment_mask(segment, causal=causal)
        added = _for_training(seen, ByteDropout(1), Model)
        assert torch.equal(added == 0, seen)
        # A probability below 1/512 is rounded to nothing dropped.
        kept_all = _context(query, key, value, added, ByteDropout(1), 0.001)
        served = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        torch.testing.assert_close(kept_all, served)
        torch.testing.assert_close(_context(query, key, value, seen, None, 0.5), served)
        dropped = _context(query, key, value, added, ByteDropout(1), 0.5)
        scores = (query @ key.transpose(-1, -2) / 5**0.5).masked_fill(~seen, -torch.inf)
        keep, scale = ByteDropout(1).keep(scores.shape, 0.5)
        torch.testing.assert_close(dropped, (scores.softmax(-1) * keep * scale) @ value)


def test_without_attention_dropout_the_mask_stays_as_it_is():
    class Plain:
        attn_dropout_prob = 0.0

    seen = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert _for_training(seen, ByteDropout(1), Plain) is seen
    assert _for_training(seen, None, Model) is seen
