"""Pooling against a loop over pieces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recbole_kd.models.pooling import POOLINGS, Tokens, pool

DECAY = 0.3


def _layout():
    """Two rows of six: pieces of 4 and 2, then 3 and padding."""
    segment = torch.tensor([[0, 0, 0, 0, 1, 1], [2, 2, 2, 3, 3, 3]])
    position = torch.tensor([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]])
    return segment, position, torch.tensor([4, 2, 3])


def _by_hand(name: str, states: torch.Tensor, scorer: nn.Linear) -> torch.Tensor:
    n = len(states)
    weights = {
        "mean": torch.full((n,), 1.0 / n),
        "last": torch.tensor([0.0] * (n - 1) + [1.0]),
        # exp(g t) / sum_j exp(g j), t = 0..n-1
        "exponential": torch.tensor([math.exp(DECAY * t) for t in range(n)])
        / sum(math.exp(DECAY * t) for t in range(n)),
        "attention": torch.softmax(scorer(states).squeeze(-1), 0),
    }[name]
    return (weights[:, None] * states).sum(0)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_against_a_loop_and_blind_to_padding(name):
    torch.manual_seed(0)
    segment, position, length = _layout()
    hidden = torch.randn(2, 6, 5)
    hidden[1, 3:] = float("nan")  # padding: one look at it and the result is NaN
    scorer = nn.Linear(5, 1)
    got = pool(Tokens(hidden, segment, position, length), name, decay=DECAY, scorer=scorer)
    for p in range(3):
        torch.testing.assert_close(got[p], _by_hand(name, hidden[segment == p], scorer))


def test_attention_without_a_scorer_is_an_error():
    segment, position, length = _layout()
    with pytest.raises(ValueError, match="scorer"):
        pool(Tokens(torch.zeros(2, 6, 5), segment, position, length), "attention", decay=0.0)
