"""The search cannot leave the catalogue; with full width it is the exact ranking, by brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_kd.baselines.p5.beam import search
from recbole_kd.baselines.p5.model import CachedDecoder, P5Model, random_t5
from recbole_kd.baselines.p5.trie import Trie
from recbole_kd.errors import SpecError

V, EOS = 12, 1
SHAPE = {"d_model": 16, "d_kv": 4, "d_ff": 24, "n_layers": 2, "n_heads": 2, "dropout": 0.1}


def tiny_t5(seed: int = 0) -> P5Model:
    t5 = random_t5(V, 0, EOS, SHAPE, seed)
    # Away from the nearly uniform initial predictions.
    with torch.no_grad():
        for p in t5.parameters():
            p.mul_(1.5)
    return P5Model(t5, torch.Generator().manual_seed(seed)).eval()


MODEL = tiny_t5()
names = st.sets(st.lists(st.integers(2, V - 1), min_size=1, max_size=4).map(tuple), min_size=2, max_size=12)


def inputs(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, V, (n, 6), generator=g)
    mask = torch.ones_like(ids)
    for row in range(n):
        mask[row, 6 - row % 3 :] = 0
    return ids * mask, torch.arange(6).expand(n, 6).clone(), mask


def run(sequences: list[list[int]], n: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    ids, words, mask = inputs(n, seed)
    with torch.no_grad():
        return search(
            lambda: CachedDecoder(MODEL, MODEL.read(ids, words, mask), mask),
            n,
            MODEL.start,
            Trie(sequences),
            width,
        )


def brute_force(sequences: list[list[int]], n: int, seed: int) -> Tensor:
    """log p of every name, each scored whole by a plain forward pass of transformers' model."""
    ids, words, mask = inputs(n, seed)
    table = torch.empty((n, len(sequences) - 1))
    with torch.no_grad():
        embedded = MODEL.t5.shared(ids) + MODEL.whole_word(words)
        for item, name in enumerate(sequences[1:]):
            labels = torch.tensor([name]).repeat(n, 1)
            out = MODEL.t5(inputs_embeds=embedded, attention_mask=mask, labels=labels)
            chances = out.logits.log_softmax(-1)
            table[:, item] = chances.gather(2, labels[:, :, None]).sum((1, 2))
    return table


@settings(max_examples=25, deadline=None)
@given(found=names, seed=st.integers(0, 5), extra=st.integers(0, 3))
def test_full_width_is_the_exact_ranking_of_all_items(found: Any, seed: int, extra: int) -> None:
    sequences = [[], *([*name, EOS] for name in sorted(found))]
    items, scores = run(sequences, 3, len(sequences) - 1 + extra, seed)
    expected = brute_force(sequences, 3, seed)
    for row in range(3):
        assert sorted(items[row].tolist()) == list(range(1, len(sequences)))
        torch.testing.assert_close(scores[row], expected[row, items[row] - 1], atol=1e-4, rtol=1e-4)
        assert bool((scores[row].diff() <= 0).all())


@settings(max_examples=25, deadline=None)
@given(found=names, seed=st.integers(0, 5), width=st.integers(1, 4))
def test_a_narrow_beam_never_leaves_the_catalogue(found: Any, seed: int, width: int) -> None:
    """Different items of the catalogue, as many as fit, each with its own log p."""
    sequences = [[], *([*name, EOS] for name in sorted(found))]
    items, scores = run(sequences, 3, width, seed)
    expected = brute_force(sequences, 3, seed)
    for row in range(3):
        real = items[row][items[row] > 0].tolist()
        assert len(real) == min(width, len(sequences) - 1)
        assert len(set(real)) == len(real)
        assert all(1 <= item < len(sequences) for item in real)
        torch.testing.assert_close(
            scores[row][: len(real)], expected[row, torch.tensor(real) - 1], atol=1e-4, rtol=1e-4
        )


def test_greedy_step_by_hand() -> None:
    """Width 1 follows the best allowed token, even where that loses: p = .6 then .1 against .4 then .9."""

    class Fixed:
        def __init__(self) -> None:
            self.at = torch.zeros(1, dtype=torch.long)

        def step(self, tokens: Tensor) -> Tensor:
            table = {0: {2: 0.6, 3: 0.4}, 2: {4: 0.1, 5: 0.05}, 3: {4: 0.9}, 4: {1: 1.0}, 5: {1: 1.0}}
            rows = torch.full((len(tokens), 6), 1e-6)
            for r, token in enumerate(tokens.tolist()):
                for following, p in table.get(token, {}).items():
                    rows[r, following] = p
            return rows.log()

        def reorder(self, rows: Tensor) -> None:
            pass

    trie = Trie([[], [2, 4, 1], [2, 5, 1], [3, 4, 1]])
    items, scores = search(Fixed, 1, 0, trie, 1)
    assert items.tolist() == [[1]]
    assert scores.exp().item() == pytest.approx(0.06)
    items, scores = search(Fixed, 1, 0, trie, 3)
    assert items.tolist() == [[3, 1, 2]]
    assert scores.exp().tolist()[0] == pytest.approx([0.36, 0.06, 0.03])


def test_one_name_for_two_items_is_refused() -> None:
    with pytest.raises(SpecError, match="items 1 and 3 have one name"):
        Trie([[], [2, 3, 1], [2, 1], [2, 3, 1]])


def test_log_probabilities_in_one_pass() -> None:
    """What training and the search use agrees with transformers' own loss."""
    ids, words, mask = inputs(2, 0)
    names = torch.tensor([[3, 4, EOS], [5, EOS, 0]])
    with torch.no_grad():
        found = MODEL.log_probabilities(ids, words, mask, names, 0)
        loss = MODEL.loss(ids, words, mask, names, 0)
        embedded = MODEL.t5.shared(ids) + MODEL.whole_word(words)
        labels = names.masked_fill(names == 0, -100)
        theirs = MODEL.t5(inputs_embeds=embedded, attention_mask=mask, labels=labels).loss
    assert float(loss) == pytest.approx(float(theirs), abs=1e-5)
    assert float(-found.sum() / 5) == pytest.approx(float(theirs), abs=1e-5)
