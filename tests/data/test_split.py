from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recbole_kd.data.split import make_split
from recbole_kd.errors import DataError, SpecError

anew = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
real_times = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(8)]),
        st.sampled_from([f"i{n}" for n in range(9)]),
        st.just(1.0),
        st.sampled_from([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]),
    ),
    min_size=1,
    max_size=60,
)


def by_user(rows):
    """user -> items in order of (time, line), with times."""
    users = {}
    for user, item, _, time in sorted(rows, key=lambda r: r[3]):
        users.setdefault(user, []).append((item, time))
    return users


def as_dict(dataset, sequences):
    return {
        dataset.user_tokens[u]: dataset.item_tokens[sequences.row(r)].tolist()
        for r, u in enumerate(sequences.users)
    }


def evaluated(dataset, part):
    history = as_dict(dataset, part.history)
    targets = dataset.item_tokens[part.targets].tolist()
    return {user: (items, target) for (user, items), target in zip(history.items(), targets, strict=True)}


@anew
@given(real_times)
def test_leave_one_out_by_hand(tiny, tiny_spec, rows):
    dataset = tiny(rows)
    train, valid, test = {}, {}, {}
    for user, pairs in by_user(rows).items():
        items = [item for item, _ in pairs]
        n = len(items)
        train[user] = items[: n - (n >= 3) - (n >= 4)]
        if n >= 3:
            test[user] = (items[:-1], items[-1])
        if n >= 4:
            valid[user] = (items[:-2], items[-2])
    if not valid:
        with pytest.raises(DataError, match="leaves nobody to validate on"):
            make_split(dataset, tiny_spec().split)
        return
    split = make_split(dataset, tiny_spec().split)
    assert as_dict(dataset, split.train) == train
    assert evaluated(dataset, split.valid) == valid
    assert evaluated(dataset, split.test) == test
    lengths = [len(pairs) for pairs in by_user(rows).values()]
    assert [split.counts[f"users_with_{k}"] for k in (1, 2, 3)] == [lengths.count(k) for k in (1, 2, 3)]
    trained = {item for items in train.values() for item in items}
    assert split.counts["cold_test_targets"] == sum(t not in trained for _, t in test.values())
    assert split.counts["items_without_train"] == len({r[1] for r in rows} - trained)
    assert split.train_item_counts().sum() == split.counts["train_interactions"]
    assert split.train_item_counts()[0] == 0


@anew
@given(real_times, st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 5))
def test_temporal_by_hand(tiny, tiny_spec, rows, quantile, seed):
    dataset = tiny(rows)
    spec = tiny_spec(split={"protocol": "temporal", "quantile": quantile, "seed": seed}).split
    cut = np.quantile([r[3] for r in rows], quantile)
    users = by_user(rows)
    before = {u: [i for i, t in pairs if t <= cut] for u, pairs in users.items()}
    eligible = {u for u, items in before.items() if len(items) >= 2}
    test = {
        u: ([i for i, _ in pairs[:-1]], pairs[-1][0])
        for u, pairs in users.items()
        if pairs[-1][1] > cut and len(pairs) > 1
    }
    n_valid = round(0.5 * len(eligible))
    if not n_valid or not test:
        with pytest.raises(DataError, match="leaves nobody"):
            make_split(dataset, spec)
        return
    split = make_split(dataset, spec)
    valid = evaluated(dataset, split.valid)
    assert len(valid) == n_valid
    assert set(valid) <= eligible
    assert all(pair == (before[u][:-1], before[u][-1]) for u, pair in valid.items())
    assert as_dict(dataset, split.train) == {u: i for u, i in before.items() if i and u not in valid}
    assert evaluated(dataset, split.test) == test
    again = make_split(dataset, spec)
    assert again.digest == split.digest
    assert np.array_equal(again.valid.targets, split.valid.targets)


def test_the_seed_draws_other_validation_users(tiny, tiny_spec):
    rows = [(f"u{u}", f"i{(u + k) % 7}", 1.0, 10.0 * k + u) for u in range(40) for k in range(6)]
    dataset = tiny(rows)
    splits = [
        make_split(dataset, tiny_spec(split={"protocol": "temporal", "seed": s}).split) for s in (1, 1, 2)
    ]
    drawn = [s.valid.history.users.tolist() for s in splits]
    assert drawn[0] == drawn[1] != drawn[2]
    assert splits[0].digest == splits[1].digest != splits[2].digest


def test_digest_covers_data_and_protocol(tiny, tiny_spec):
    rows = [(f"u{u}", f"i{k}", 1.0, 10.0 * k + 3 * u) for u in range(6) for k in range(5)]
    spec = tiny_spec().split
    first = make_split(tiny(rows), spec).digest
    assert make_split(tiny(rows), tiny_spec(split={"seed": 99}).split).digest == first, "no draw, no seed"
    assert make_split(tiny(rows), tiny_spec(split={"protocol": "temporal"}).split).digest != first
    assert make_split(tiny(rows[1:]), spec).digest != first


def test_positions_are_no_timeline(tiny, tiny_spec):
    dataset = tiny([(f"u{u}", f"i{k}", 1.0, k + 1.0) for u in range(6) for k in range(4)])
    with pytest.raises(DataError, match="no global timeline"):
        make_split(dataset, tiny_spec(split={"protocol": "temporal"}).split)


def test_unknown_protocol(tiny, tiny_spec):
    with pytest.raises(SpecError, match="leave-one-out, temporal"):
        make_split(tiny([("u", "i", 1.0, 1.0)]), tiny_spec(split={"protocol": "random"}).split)


@anew
@given(real_times, st.sampled_from([0.3, 0.5]), st.sampled_from([0.6, 0.8, 1.0]))
def test_until_is_the_same_as_a_shorter_file(tiny, tiny_spec, rows, quantile, until):
    """Nothing after ``until`` is looked at: the split of the file that ends there, cut at the same moment."""
    dataset = tiny(rows)
    times = [r[3] for r in rows]
    cut, end = np.quantile(times, quantile), np.quantile(times, until)
    spec = tiny_spec(split={"protocol": "temporal", "quantile": quantile, "until": until}).split
    users = {u: [(i, t) for i, t in pairs if t <= end] for u, pairs in by_user(rows).items()}
    test = {
        u: ([i for i, _ in pairs[:-1]], pairs[-1][0])
        for u, pairs in users.items()
        if len(pairs) > 1 and pairs[-1][1] > cut
    }
    try:
        split = make_split(dataset, spec)
    except DataError:
        eligible = [u for u, pairs in users.items() if sum(t <= cut for _, t in pairs) >= 2]
        assert not test or not round(0.5 * len(eligible))
        return
    assert evaluated(dataset, split.test) == test
    plain = make_split(dataset, tiny_spec(split={"protocol": "temporal", "quantile": quantile}).split)
    assert as_dict(dataset, split.train) == as_dict(dataset, plain.train)
    assert split.digest != plain.digest


def holdout(tiny_spec, **changes):
    chosen = {"share": 0.4, "revealed": 2, "longest": 3, "learn": True, **changes}
    return tiny_spec(split={"protocol": "user-holdout", "holdout": chosen}).split


@anew
@given(real_times, st.integers(1, 3), st.booleans())
def test_user_holdout_by_hand(tiny, tiny_spec, rows, revealed, learn):
    dataset, spec = tiny(rows), holdout(tiny_spec, revealed=revealed, learn=learn)
    users = {u: [i for i, _ in pairs] for u, pairs in by_user(rows).items()}
    eligible = {u for u, items in users.items() if len(items) > 3}
    n_new = round(0.4 * len(eligible))
    if len(eligible) < 2 or not n_new or not any(len(i) >= 3 for u, i in users.items()):
        with pytest.raises(DataError):
            make_split(dataset, spec)
        return
    try:
        split = make_split(dataset, spec)
    except DataError:
        assert sum(len(items) >= 3 for items in users.values()) == n_new, "only newcomers could validate"
        return
    test = evaluated(dataset, split.test)
    assert len(test) == n_new
    assert set(test) <= eligible
    assert test == {u: (users[u][:revealed], users[u][revealed]) for u in test}
    known = {u: items for u, items in users.items() if u not in test}
    train = {u: items[: len(items) - (len(items) >= 3)] for u, items in known.items()}
    train |= {u: users[u][:revealed] for u in test if learn}
    assert as_dict(dataset, split.train) == train
    valid = {u: (items[:-1], items[-1]) for u, items in known.items() if len(items) >= 3}
    assert evaluated(dataset, split.valid) == valid


def test_newcomers_are_the_same_whatever_they_reveal(tiny, tiny_spec):
    dataset = tiny([(f"u{u}", f"i{(u + k) % 9}", 1.0, 10.0 * k + u) for u in range(30) for k in range(6)])
    splits = [
        make_split(dataset, holdout(tiny_spec, revealed=k, learn=learn)) for k in (1, 3) for learn in (0, 1)
    ]
    drawn = {tuple(s.test.history.users.tolist()) for s in splits}
    assert len(drawn) == 1
    assert len({s.digest for s in splits}) == 4
    assert splits[0].counts["newcomers"] == 12
    for split in splits:
        inside = np.isin(split.test.history.users, split.train.users)
        assert inside.all() or not inside.any()


def test_what_is_off_changes_no_address(tiny_spec):
    """Cells that were run before these fields existed keep their addresses."""
    old = {"protocol": "leave-one-out", "seed": 7, "quantile": 0.8, "valid_user_share": 0.5}
    spec = tiny_spec()
    assert spec.split.canonical() == old
    assert spec.canonical()["split"] == old
    again = type(spec.split).model_validate(holdout(tiny_spec).canonical())
    assert again == holdout(tiny_spec)


@pytest.mark.parametrize(
    "split",
    [
        {"protocol": "user-holdout"},
        {"holdout": {"share": 0.1, "revealed": 1, "longest": 1, "learn": True}},
        {"until": 0.9},
        {"protocol": "temporal", "quantile": 0.8, "until": 0.7},
        {"protocol": "user-holdout", "holdout": {"share": 0.1, "revealed": 9, "longest": 5, "learn": True}},
    ],
)
def test_fields_that_do_not_fit_each_other(tiny_spec, split):
    with pytest.raises(ValidationError):
        tiny_spec(split=split)
