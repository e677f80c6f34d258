"""A sampled train part: smaller, nested, in order; whoever is evaluated stays the same; the guard holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from profiles.history import LeakageGuard, train_histories
from recbole_kd.benchmark import artefacts
from recbole_kd.data.load import load_dataset
from recbole_kd.data.recbole_view import recbole_loaders
from recbole_kd.data.spec import DatasetSpec, SampleSpec, read_dataset_spec
from recbole_kd.data.split import make_split
from recbole_kd.errors import DataError, LeakageError

SPEC = read_dataset_spec("ml-100k")
DATA = load_dataset(SPEC)


def split_of(**sample):
    spec = SPEC.split if not sample else SPEC.split.model_copy(update={"sample": SampleSpec(**sample)})
    return make_split(DATA, spec)


def rows(split):
    return {int(u): split.train.row(r).tolist() for r, u in enumerate(split.train.users)}


WHOLE = split_of()


@pytest.mark.parametrize(
    "sample", [{"users": 0.25}, {"interactions": 0.3}, {"users": 0.5, "interactions": 0.1}]
)
def test_only_the_train_part_shrinks(sample):
    split = split_of(**sample, seed=3)
    for part in ("valid", "test"):
        mine, whole = getattr(split, part), getattr(WHOLE, part)
        assert np.array_equal(mine.targets, whole.targets)
        assert np.array_equal(mine.history.items, whole.history.items)
        assert np.array_equal(mine.history.users, whole.history.users)
    assert len(split.train) == round(sample.get("users", 1.0) * len(WHOLE.train))
    full = rows(WHOLE)
    for user, items in rows(split).items():
        keep = math.ceil(round(sample.get("interactions", 1.0) * len(full[user]), 6))
        assert items == full[user][len(full[user]) - keep :]
    assert split.digest != WHOLE.digest
    left = split.counts["train_interactions"] + split.counts["sample_interactions_left_out"]
    assert left == WHOLE.counts["train_interactions"] or "users" in sample


def test_a_larger_share_holds_a_smaller_one_of_the_same_seed():
    small, large = (set(rows(split_of(users=u, seed=3))) for u in (0.2, 0.6))
    assert small < large
    assert set(rows(split_of(users=0.2, seed=4))) != small
    assert rows(split_of(users=1.0, interactions=1.0, seed=3)) == rows(WHOLE)


def test_profiles_are_written_from_what_is_left_and_guarded_by_it():
    split = split_of(users=0.5, interactions=0.4, seed=3)
    histories = {h.user: h for h in train_histories(split)}
    left = rows(split)
    assert len(histories) == len(left)
    guard = LeakageGuard(split)
    place = dict(zip(DATA.sequences.users.tolist(), range(len(DATA.sequences)), strict=True))
    for user, items in left.items():
        token = str(DATA.user_tokens[user])
        own = histories[token]
        assert own.items == tuple(DATA.item_tokens[i] for i in items)
        guard.check(token, own.items)
        # Times are those of the very interactions: brute force over the user's whole sequence.
        begin = DATA.sequences.offsets[place[user]]
        end = begin + len(rows(WHOLE)[user])
        assert own.times == tuple(DATA.times[end - len(items) : end].tolist())
    token = str(DATA.user_tokens[next(iter(left))])
    whole = tuple(str(DATA.item_tokens[i]) for i in rows(WHOLE)[next(iter(left))])
    with pytest.raises(LeakageError):
        guard.check(token, whole)
    gone = next(u for u in rows(WHOLE) if u not in left)
    with pytest.raises(LeakageError):
        guard.check(str(DATA.user_tokens[gone]), (str(DATA.item_tokens[rows(WHOLE)[gone][0]]),))


def test_stored_and_read_again(tmp_path):
    split = split_of(users=0.5, interactions=0.4, seed=3)
    artefacts._write_split(tmp_path / "s.npz", split)
    again = artefacts.read_split(tmp_path / "s.npz")
    assert np.array_equal(again.train_begins, split.train_begins)
    assert rows(again) == rows(split)
    artefacts._write_split(tmp_path / "w.npz", WHOLE)
    assert artefacts.read_split(tmp_path / "w.npz").train_begins is None


def test_without_a_sample_nothing_has_another_address():
    assert "sample" not in SPEC.split.canonical()
    assert make_split(DATA, DatasetSpec.model_validate(SPEC.model_dump()).split).digest == WHOLE.digest


@pytest.mark.parametrize("bad", [{"users": 0}, {"interactions": 1.5}, {}, {"user": 0.5}])
def test_bad_shares(bad):
    with pytest.raises(ValidationError):
        SampleSpec(**bad, seed=1)


def test_nobody_left_and_prefix_mode_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"sample\.users = 0\.0001 leaves none of 943"):
        split_of(users=0.0001, seed=1)
    with pytest.raises(DataError, match="would train on everything"):
        recbole_loaders(
            split_of(users=0.5, seed=1), "SASRec", {}, max_item_list_length=50, checkpoint_dir=tmp_path
        )
