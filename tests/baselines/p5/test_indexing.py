"""Item names: unique, of the train part only, and what each indexing promises about neighbours."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from recbole_kd.baselines.p5.indexing import INDEXINGS
from recbole_kd.data.types import EvalSet, Sequences, Split
from tests.tiny_lm import toy_split


def named(split: Split, kind: str, seed: int = 3, clusters: int = 3, size: int = 4) -> list[str]:
    return INDEXINGS[kind](split, seed, clusters, size)


@pytest.mark.parametrize("kind", INDEXINGS)
def test_names_are_unique_and_repeatable(kind: str) -> None:
    split = toy_split(n_users=30, n_items=26)
    names = named(split, kind)
    assert names[0] == ""
    assert len(set(names[1:])) == split.dataset.n_items - 1
    assert all(names[1:])
    assert names == named(split, kind)


@pytest.mark.parametrize("kind", INDEXINGS)
def test_names_do_not_depend_on_held_out_interactions(kind: str) -> None:
    """The leak of P5's sequential ids: there, a test item stands beside the items before it."""
    split = toy_split(n_users=30, n_items=26)
    n = split.dataset.n_items

    def other(part: EvalSet) -> EvalSet:
        return EvalSet(part.history, part.targets % (n - 1) + 1)

    whole = split.dataset.sequences
    turned = Sequences(whole.users, whole.offsets, whole.items[::-1].copy())
    dataset = dataclasses.replace(split.dataset, sequences=turned)
    changed = dataclasses.replace(split, dataset=dataset, valid=other(split.valid), test=other(split.test))
    assert named(split, kind) == named(changed, kind)


def test_sequential_numbers_follow_first_appearance() -> None:
    split = toy_split()
    numbers = [int(name) for name in named(split, "sequential")[1:]]
    order: list[int] = []
    for row in range(len(split.train)):
        order += [int(i) for i in split.train.row(row) if int(i) not in order]
    for place, item in enumerate(order):
        assert numbers[item - 1] == 1001 + place
    assert sorted(numbers) == list(range(1001, 1001 + split.dataset.n_items - 1))


def test_random_numbers_are_another_permutation_for_another_seed() -> None:
    split = toy_split()
    one, two = named(split, "random", 1), named(split, "random", 2)
    assert sorted(one) == sorted(two)
    assert one != two


def blocks(n_blocks: int, per_block: int, rest: int) -> Split:
    """Users who stay within their block of items; ``rest`` items nobody trained on."""
    split = toy_split(n_users=4, n_items=n_blocks * per_block + rest)
    rng = np.random.default_rng(0)
    rows = [rng.permutation(per_block)[:6] + 1 + b * per_block for b in range(n_blocks) for _ in range(25)]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    train = Sequences(np.arange(1, len(rows) + 1), offsets, np.concatenate(rows).astype(np.int64))
    return dataclasses.replace(split, train=train)


def test_collaborative_names_share_a_beginning_within_a_block() -> None:
    split = blocks(3, 8, 2)
    names = named(split, "collaborative", clusters=3, size=10)
    first = [re.findall(r"<CI\d+>", name)[0] for name in names[1:]]
    for block in range(3):
        assert len(set(first[block * 8 : (block + 1) * 8])) == 1
    assert len(set(first[:24])) == 3
    # Items without training have a group of their own.
    assert len(set(first[24:])) == 1
    assert first[24] not in first[:24]


def test_large_groups_are_cut_again_and_tokens_stay_few() -> None:
    split = blocks(2, 12, 0)
    names = named(split, "collaborative", clusters=2, size=5)
    tokens = [[int(t) for t in re.findall(r"\d+", name)] for name in names[1:]]
    assert max(map(len, tokens)) >= 3
    assert max(t for row in tokens for t in row) < 6
    assert len({tuple(t) for t in tokens}) == len(tokens)
    ends = {tuple(t) for t in tokens}
    assert not any(t[:k] in ends for t in ends for k in range(1, len(t)))
