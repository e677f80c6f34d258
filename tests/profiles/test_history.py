from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from profiles.history import AsOf, LeakageGuard, train_histories
from recbole_kd.data.history import history_hash
from recbole_kd.data.types import EvalSet, Sequences, Split
from recbole_kd.errors import LeakageError, ProfileError

from .conftest import HISTORIES


def test_histories_are_the_train_part_in_order(split: Split) -> None:
    for history in train_histories(split):
        expected = tuple(HISTORIES[history.user][:-2])
        assert history.items == expected
        assert history.hash == history_hash(expected)
        assert history.last == len(expected)


def test_ratings_and_times_belong_to_the_items(split: Split) -> None:
    flat = [(user, token) for user, h in HISTORIES.items() for token in h]
    rating = {(user, p): 1 + (i * 3) % 5 for i, (user, p) in enumerate(flat)}
    for row, history in enumerate(train_histories(split)):
        assert history.ratings == tuple(rating[history.user, item] for item in history.items)
        assert history.times == tuple(10.0 * p + row for p in range(history.last))


@pytest.mark.parametrize(
    ("kind", "value", "lengths"),
    [
        ("fraction", 1.0, [6, 5, 4, 3, 5, 7, 3, 4]),
        ("fraction", 0.5, [3, 3, 2, 2, 3, 4, 2, 2]),
        ("fraction", 0.2, [2, 1, 1, 1, 1, 2, 1, 1]),
        ("items", 3, [3, 3, 3, 3, 3, 3, 3, 3]),
        ("time", 21.0, [3, 3, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_as_of_cuts_by_hand_count(split: Split, kind: str, value: float, lengths: list[int]) -> None:
    cut = train_histories(split, AsOf(kind=kind, value=value))  # type: ignore[arg-type]
    assert [h.last for h in cut] == lengths
    assert all(h.hash == history_hash(HISTORIES[h.user][: h.last]) for h in cut)


def test_fraction_is_not_pushed_up_by_rounding_error() -> None:
    from profiles.history import UserHistory, _length

    ten = UserHistory("u", tuple("abcdefghij"), None, (0.0,) * 10, "")
    assert _length(ten, AsOf(kind="fraction", value=0.7)) == 7


def test_users_left_without_an_item_are_dropped(split: Split) -> None:
    users = {h.user for h in train_histories(split, AsOf(kind="time", value=3.5))}
    assert users == {"u1", "u2", "u3", "u4"}


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_share_of_the_timeline_is_the_moment_at_which_it_ends(split: Split, share: float) -> None:
    moment = float(np.quantile(split.dataset.times, share))
    cut = train_histories(split, AsOf(kind="timeline", value=share))
    assert cut == train_histories(split, AsOf(kind="time", value=moment))
    assert cut


def test_a_train_part_that_is_no_prefix_is_refused(split: Split) -> None:
    train = split.train
    swapped = train.items.copy()
    swapped[:2] = swapped[:2][::-1]
    broken = replace(split, train=Sequences(train.users, train.offsets, swapped))
    with pytest.raises(ProfileError, match=r"user 'u1'.*not the beginning"):
        train_histories(broken)


def test_guard_accepts_every_train_prefix_and_nothing_else(split: Split) -> None:
    guard = LeakageGuard(split)
    for user, whole in HISTORIES.items():
        train = tuple(whole[:-2])
        for n in range(len(train) + 1):
            guard.check(user, train[:n])
        with pytest.raises(LeakageError):
            guard.check(user, tuple(whole[:-1]))


def test_one_validation_item_slipped_into_one_history_trips_the_guard(split: Split) -> None:
    guard = LeakageGuard(split)
    valid: EvalSet = split.valid
    for r in range(len(valid)):
        user = str(split.dataset.user_tokens[valid.history.users[r]])
        target = str(split.dataset.item_tokens[valid.targets[r]])
        train = guard.train_items(user)
        for position in range(len(train) + 1):
            slipped = (*train[:position], target, *train[position:])
            with pytest.raises(
                LeakageError, match=f"user '{user}', position {position + 1}: item '{target}'"
            ):
                guard.check(user, slipped)
    assert len(valid) == len(np.unique(valid.history.users)) > 5
