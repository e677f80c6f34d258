"""Pooling against a loop over pieces, over prefixes, and over the reference code's padded rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recbole_kd.models.pooling import POOLINGS, Tokens, pool, pool_prefixes, with_padding

DECAY = 0.3


def _layout():
    """Two rows of six: pieces of 4 and 2, then 3 and padding."""
    segment = torch.tensor([[0, 0, 0, 0, 1, 1], [2, 2, 2, 3, 3, 3]])
    position = torch.tensor([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]])
    return segment, position, torch.tensor([4, 2, 3])


def _by_hand(name: str, states: torch.Tensor, scorer: nn.Linear, decay: float = DECAY) -> torch.Tensor:
    n = len(states)
    weights = {
        "mean": torch.full((n,), 1.0 / n),
        "last": torch.tensor([0.0] * (n - 1) + [1.0]),
        # exp(g t) / sum_j exp(g j), t = 0..n-1
        "exponential": torch.tensor([math.exp(decay * t) for t in range(n)])
        / sum(math.exp(decay * t) for t in range(n)),
        "attention": torch.softmax(scorer(states).squeeze(-1), 0),
    }[name]
    return (weights[:, None].to(states.dtype) * states).sum(0)


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


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_every_prefix_against_a_loop(name):
    torch.manual_seed(0)
    segment, position, length = _layout()
    hidden = torch.randn(2, 6, 5)
    hidden[1, 3:] = float("nan")
    scorer = nn.Linear(5, 1)
    tokens = Tokens(hidden, segment, position, length)
    got = pool_prefixes(tokens, name, decay=DECAY, scorer=scorer)
    assert got.shape == (9, 5)
    row = 0
    for p in range(3):
        states = hidden[segment == p]
        for t in range(len(states)):
            torch.testing.assert_close(got[row], _by_hand(name, states[: t + 1], scorer))
            row += 1
    whole = pool(tokens, name, decay=DECAY, scorer=scorer)
    torch.testing.assert_close(got[tokens.age == 0], whole)


def test_long_prefixes_keep_their_precision_and_their_gradient():
    """A difference of sums over weights from e^-150 to 1 would lose the early prefixes."""
    torch.manual_seed(0)
    n = 300
    hidden = torch.randn(1, n, 3, dtype=torch.float64)
    piece, position = torch.zeros(1, n, dtype=torch.long), torch.arange(n)[None]
    tokens = Tokens(hidden.float(), piece, position, torch.tensor([n]))
    got = pool_prefixes(tokens, "exponential", decay=0.5)
    scorer = nn.Linear(3, 1).double()
    for t in (0, 1, 7, 150, n - 1):
        want = _by_hand("exponential", hidden[0, max(0, t - 120) : t + 1], scorer, 0.5)
        torch.testing.assert_close(got[t], want.float(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        scorer.weight.mul_(50)  # scores far apart
    short = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)

    def run(x):
        return pool_prefixes(
            Tokens(x, piece[:, :6], position[:, :6], torch.tensor([6])), "attention", decay=0.0, scorer=scorer
        )

    assert torch.autograd.gradcheck(run, short)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_with_padding_is_the_reference_codes_row(name):
    """Left-padded rows of 6 whose padding is zero, pooled over the row."""
    torch.manual_seed(0)
    segment, position, length = _layout()
    hidden = torch.randn(2, 6, 5)
    scorer = nn.Linear(5, 1)
    tokens = with_padding(Tokens(hidden, segment, position, length), length, 6)
    got = pool(tokens, name, decay=DECAY, scorer=scorer)
    for p in range(3):
        states = hidden[segment == p]
        row = torch.cat([torch.zeros(6 - len(states), 5), states])
        torch.testing.assert_close(got[p], _by_hand(name, row, scorer))
    if name == "mean":
        torch.testing.assert_close(got[1], hidden[segment == 1].mean(0) * 2 / 6)


def test_attention_without_a_scorer_is_an_error():
    segment, position, length = _layout()
    with pytest.raises(ValueError, match="scorer"):
        pool(Tokens(torch.zeros(2, 6, 5), segment, position, length), "attention", decay=0.0)
