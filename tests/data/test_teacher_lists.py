"""The list file: what goes in comes out, and what does not fit the split is refused by row and field."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_kd.data.history import history_hash
from recbole_kd.data.list_rows import ListRows
from recbole_kd.data.teacher_lists import load_teacher_lists, write_teacher_lists
from recbole_kd.errors import LeakageError, ProfileError
from tests.students import tiny_split


@pytest.fixture(scope="module")
def split():
    return tiny_split(n_users=6, n_items=12)


def _history(split, r, last=None):
    row = split.train.row(r)
    return split.dataset.item_tokens[row[: len(row) if last is None else last]].tolist()


def _rows(split, users=(0, 1, 2)):
    """Three items for some users, made from their whole train history."""
    rows = []
    for r in users:
        token = str(split.dataset.user_tokens[split.train.users[r]])
        history = _history(split, r)
        for k in range(3):
            rows.append(
                {
                    "user": token,
                    "rank": k + 1,
                    "item": f"i{(3 * r + k) % 11 + 1}",
                    "score": 1.0 - k / 10,
                    "source_user": token,
                    "history_last": len(history),
                    "history_hash": history_hash(history),
                }
            )
    return pd.DataFrame(rows)


def test_rows_come_back_by_user_id(split, tmp_path):
    rows = _rows(split)
    path = tmp_path / "lists.parquet"
    write_teacher_lists(path, rows.sample(frac=1, random_state=0), {"source": "test"})
    found = load_teacher_lists(path, split, trust_unverified=False)
    assert found.items.shape == (split.dataset.n_users, 3)
    for r in range(3):
        user = split.train.users[r]
        assert (
            split.dataset.item_tokens[found.items[user]].tolist() == rows["item"][3 * r : 3 * r + 3].tolist()
        )
        np.testing.assert_allclose(found.score[user], [1.0, 0.9, 0.8], rtol=1e-6)
    assert (found.items[split.train.users[3:]] == 0).all()
    assert found.coverage == pytest.approx(3 / len(split.train))
    assert found.verified
    assert found.manifest["source"] == "test"
    again = tmp_path / "again.parquet"
    write_teacher_lists(again, rows, {"source": "other"})
    assert load_teacher_lists(again, split, trust_unverified=False).digest == found.digest


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({(4, "item"): "i99"}, "row 4, field item: item 'i99' is not in dataset"),
        ({(3, "user"): "nobody", (3, "rank"): 1}, "row "),
        ({(4, "item"): "i4"}, "row 4, field item: 'i4' stands twice"),
        ({(5, "rank"): 4}, "row 5, field rank: 4"),
        ({(2, "score"): float("nan")}, "row 2, field score"),
    ],
)
def test_what_does_not_fit_is_named(split, tmp_path, changes, expected):
    rows = _rows(split)
    for (r, name), value in changes.items():
        rows.loc[r, name] = value
    path = tmp_path / "lists.parquet"
    rows.to_csv(tmp_path / "lists.csv", index=False)
    with pytest.raises(ProfileError, match=expected):
        load_teacher_lists(tmp_path / "lists.csv", split, trust_unverified=True)
    if "99" not in expected and "row 3" not in expected and (3, "user") not in changes:
        with pytest.raises(ProfileError, match=expected):
            write_teacher_lists(path, rows, {})
        assert not path.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_list_that_saw_more_than_the_train_part_is_refused(split, tmp_path):
    path = tmp_path / "lists.parquet"
    rows = _rows(split)
    seen = [*_history(split, 1), str(split.dataset.item_tokens[split.valid.targets[1]])]
    rows.loc[3:5, "history_last"] = len(seen)
    rows.loc[3:5, "history_hash"] = history_hash(seen)
    write_teacher_lists(path, rows, {})
    with pytest.raises(LeakageError, match=r"row 3, source_user 'u1', field history_last"):
        load_teacher_lists(path, split, trust_unverified=False)
    rows = _rows(split)
    rows.loc[3:5, "history_hash"] = history_hash(["i1"])
    write_teacher_lists(path, rows, {})
    with pytest.raises(LeakageError, match=r"row 3, source_user 'u1', field history_hash"):
        load_teacher_lists(path, split, trust_unverified=False)


def test_a_recommender_of_another_split_is_refused(split, tmp_path):
    path = tmp_path / "lists.parquet"
    write_teacher_lists(path, _rows(split), {"trained_on": "another"})
    with pytest.raises(LeakageError, match="was trained on split another"):
        load_teacher_lists(path, split, trust_unverified=False)
    write_teacher_lists(path, _rows(split), {"trained_on": split.digest})
    assert load_teacher_lists(path, split, trust_unverified=False).verified


def test_a_csv_needs_trust_and_may_lack_scores(split, tmp_path):
    path = tmp_path / "llm.csv"
    _rows(split)[["user", "rank", "item"]].to_csv(path, index=False)
    with pytest.raises(ProfileError, match="trust_unverified"):
        load_teacher_lists(path, split, trust_unverified=False)
    found = load_teacher_lists(path, split, trust_unverified=True)
    assert not found.verified
    assert found.score[split.train.users[0]].tolist() == [-1, -2, -3]


def test_best_items_are_those_of_a_sort(split):
    rng = np.random.default_rng(0)
    score = rng.normal(size=(2, split.dataset.n_items)).astype(np.float32)
    score[0, 3] = -np.inf
    want = score.copy()
    users = split.train.users[:2]
    rows = ListRows(split, top=4)
    said = {"source_user": ["a", "b"], "history_last": [1, 2], "history_hash": ["x", "y"]}
    rows.add(users, score, exclude_seen=True, **said)
    frame = rows.frame()
    for b in range(2):
        allowed = [
            i
            for i in range(1, split.dataset.n_items)
            if i not in split.train.row(b) and np.isfinite(want[b, i])
        ]
        best = sorted(allowed, key=lambda i: -want[b, i])[:4]
        own = frame[frame["user"] == split.dataset.user_tokens[users[b]]]
        assert own["item"].tolist() == split.dataset.item_tokens[best].tolist()
        assert own["rank"].tolist() == list(range(1, len(best) + 1))
        np.testing.assert_array_equal(own["score"], want[b, best])
