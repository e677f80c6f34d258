"""Cutting and packing against brute force: nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recbole_kd.errors import DataError
from recbole_kd.models.batch import SequenceBatches, cut, pack, segment_mask
from tests.students import sequences

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=25)


@given(lengths, st.integers(1, 12), st.integers(0, 99))
def test_cut_covers_every_element_once_in_pieces_of_at_most_max_len(sizes, max_len, seed):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    users = np.arange(1, len(sizes) + 1)
    pieces = cut(offsets[:-1], np.asarray(sizes), users, max_len, np.random.default_rng(seed))
    covered = np.concatenate([np.arange(s, s + n) for s, n in zip(pieces.start, pieces.length, strict=True)])
    assert sorted(covered) == list(range(sum(sizes)))
    assert pieces.length.max() <= max_len
    for start, length, user in zip(pieces.start, pieces.length, pieces.user, strict=True):
        assert offsets[user - 1] <= start
        assert start + length <= offsets[user]
    whole = [u for u, n in enumerate(sizes, 1) if n <= max_len]
    assert all(Counter(pieces.user.tolist())[u] == 1 for u in whole)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=60))
def test_pack_puts_pieces_side_by_side(sizes):
    row, column, n_rows = pack(np.array(sizes), 10)
    used = [(r, c + k) for r, c, n in zip(row, column, sizes, strict=True) for k in range(n)]
    assert len(set(used)) == sum(sizes)
    assert max(c for _, c in used) < 10
    assert set(row.tolist()) == set(range(n_rows))
    # Best fit leaves at most one row that is no more than half full.
    fill = np.bincount(row, weights=sizes, minlength=n_rows)
    assert (fill <= 5).sum() <= 1


def pack_one_by_one(length, max_len):
    """Best fit, longest first, a piece at a time; among equal rooms the row that was left last."""
    row, column = [0] * len(length), [0] * len(length)
    rooms, rows_used = [], set()
    for p in sorted(range(len(length)), key=lambda p: -length[p]):
        fitting = [(room, -at, at) for at, (room, _) in enumerate(rooms) if room >= length[p]]
        if fitting:
            room, r = rooms.pop(min(fitting)[2])
        else:
            room, r = max_len, len(rows_used)
        row[p], column[p] = r, max_len - room
        rows_used.add(r)
        rooms.append((room - length[p], r))
    return row, column


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=50), st.integers(9, 14))
def test_pack_equals_best_fit_one_piece_at_a_time(sizes, max_len):
    row, column, _ = pack(np.array(sizes), max_len)
    assert (row.tolist(), column.tolist()) == pack_one_by_one(sizes, max_len)


@settings(deadline=None)
@given(lengths, st.booleans(), st.booleans(), st.integers(0, 9))
def test_an_epoch_holds_every_target_once_with_its_own_predecessor(sizes, shift, packed, seed):
    assume(not shift or max(sizes) > 1)
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 1000, size=n).tolist() for n in sizes]
    batches = SequenceBatches(sequences(rows), 7, 3, shift=shift, packed=packed)
    got: Counter[tuple[int, ...]] = Counter()
    for batch in batches.epoch(rng):
        n_pieces = len(batch.user)
        real = batch.segment < n_pieces
        assert bool((batch.item_seq[~real] == 0).all())
        assert bool((batch.target[~real] == 0).all())
        assert batch.item_seq.shape[0] <= 3
        for r, c in real.nonzero().tolist():
            user = int(batch.user[batch.segment[r, c]])
            got[user, int(batch.item_seq[r, c]), int(batch.target[r, c])] += 1
        sizes_seen = torch.bincount(batch.segment[real], minlength=n_pieces)
        assert sizes_seen.tolist() == batch.length.tolist()
    want: Counter[tuple[int, ...]] = Counter()
    for user, row in enumerate(rows, 1):
        pairs = pairwise(row) if shift else zip(row, row, strict=True)
        want.update((user, a, b) for a, b in pairs)
    assert got == want
    assert batches.n_targets == sum(want.values())


def test_nothing_to_predict_is_an_error_and_no_training_of_no_steps():
    alone = sequences([[1], [2], [3]])
    with pytest.raises(DataError, match="none of 3 users has 2 interactions"):
        SequenceBatches(alone, 8, 4, shift=True, packed=True)
    # A masked item can be predicted from nothing but its mask.
    assert SequenceBatches(alone, 8, 4, shift=False, packed=True).n_targets == 3


def test_positions_run_from_zero_inside_each_piece():
    batches = SequenceBatches(sequences([[1, 2, 3], [4, 5], [6, 7, 8, 9]]), 8, 4, shift=False, packed=True)
    for batch in batches.epoch(np.random.default_rng(0)):
        for p, n in enumerate(batch.length.tolist()):
            assert batch.position[batch.segment == p].tolist() == list(range(n))


def test_the_same_stream_gives_the_same_batches():
    data = sequences([list(range(1, 30)), [3, 4, 5]])

    def items(seed: int) -> list[list[int]]:
        batches = SequenceBatches(data, 5, 2, shift=True, packed=True)
        return [b.item_seq.flatten().tolist() for b in batches.epoch(np.random.default_rng(seed))]

    assert items(3) == items(3)
    assert items(3) != items(4)


@pytest.mark.parametrize("causal", [True, False])
def test_segment_mask_against_a_double_loop(causal):
    segment = torch.tensor([[0, 0, 1, 1, 1, 3], [2, 2, 2, 3, 3, 3]])
    mask = segment_mask(segment, causal=causal)
    assert mask.shape == (2, 1, 6, 6)
    for b in range(2):
        for i in range(6):
            for j in range(6):
                want = bool(segment[b, i] == segment[b, j]) and (not causal or j <= i)
                assert bool(mask[b, 0, i, j]) == want
