from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_kd.data.history import history_hash
from recbole_kd.data.profile_table import (
    ProfileRows,
    load_profiles,
    read_embedding_file,
    write_embedding_file,
)
from recbole_kd.data.split import make_split
from recbole_kd.errors import LeakageError, ProfileError


@pytest.fixture
def split(tiny, tiny_spec):
    rows = [(f"u{u}", f"i{(u * 3 + k) % 11}", 1.0, 10.0 * k + u) for u in range(6) for k in range(4 + u)]
    return make_split(tiny(rows), tiny_spec().split)


def train_tokens(split, r):
    return split.dataset.item_tokens[split.train.row(r)].tolist()


def full_rows(split, n=None, dimension=3):
    """One honest row per train user."""
    n = len(split.train) if n is None else n
    users = split.dataset.user_tokens[split.train.users[:n]].tolist()
    histories = [train_tokens(split, r) for r in range(n)]
    vectors = np.random.default_rng(0).normal(size=(n, dimension))
    return ProfileRows.build(
        users, [len(h) for h in histories], [history_hash(h) for h in histories], vectors
    )


def save(path, rows, split, **manifest):
    return write_embedding_file(
        path, rows, {"teacher": "test", "placebo": None, "split_digest": split.digest} | manifest
    )


def load(path, split):
    return load_profiles(path, split, trust_unverified=False)


def test_round_trip(tmp_path, split):
    rows = full_rows(split)
    digest = save(tmp_path / "deep" / "e.parquet", rows, split, writer={"model": "m"})
    table = load(tmp_path / "deep" / "e.parquet", split)
    assert table.vectors.shape == (split.dataset.n_users, 1, 3)
    assert table.vectors.dtype == np.float32
    assert np.array_equal(table.vectors[split.train.users, 0], rows.vector)
    assert not table.mask[0].any()
    assert table.mask[1:].all()
    assert (table.coverage, table.verified, table.digest) == (1.0, True, digest)
    assert table.manifest["writer"] == {"model": "m"}
    assert table.manifest["n_users"] == len(rows.user)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["e.parquet"]


def test_digest_is_of_the_content(tmp_path, split):
    rows = full_rows(split)
    first = save(tmp_path / "a.parquet", rows, split, written="today")
    order = np.random.default_rng(1).permutation(len(rows.user))
    shuffled = ProfileRows(*(getattr(rows, f.name)[order] for f in dataclasses.fields(rows)))
    assert save(tmp_path / "b.parquet", shuffled, split, written="tomorrow") == first
    assert load(tmp_path / "b.parquet", split).digest == first
    rows.vector[2, 1] += 0.5
    assert save(tmp_path / "c.parquet", rows, split) != first


def test_partial_coverage_and_several_profiles(tmp_path, split):
    one = full_rows(split, 3)
    rows = ProfileRows.build(
        [*one.user, one.user[1]],
        [*one.history_last, one.history_last[1]],
        [*one.history_hash, one.history_hash[1]],
        np.vstack([one.vector, one.vector[:1]]),
        profile=[0, 0, 0, 1],
    )
    save(tmp_path / "e.parquet", rows, split)
    table = load(tmp_path / "e.parquet", split)
    assert table.coverage == 0.5
    assert table.mask.sum(axis=0).tolist() == [3, 1]
    assert table.mask[split.train.users[1]].tolist() == [True, True]
    assert np.array_equal(table.vectors[split.train.users[1], 1], one.vector[0])
    assert (table.vectors[~table.mask] == 0).all()


def test_prefix_of_train_is_fresh_enough(tmp_path, split):
    rows = full_rows(split)
    for r, last in enumerate((0, 1, 2)):
        rows.history_last[r] = last
        rows.history_hash[r] = history_hash(train_tokens(split, r)[:last])
    save(tmp_path / "e.parquet", rows, split)
    assert load(tmp_path / "e.parquet", split).coverage == 1.0


def test_shuffled_placebo_is_checked_against_its_source(tmp_path, split):
    rows = full_rows(split)
    rolled = dataclasses.replace(rows, user=np.roll(rows.user, 1))
    save(tmp_path / "e.parquet", rolled, split, placebo="shuffled")
    table = load(tmp_path / "e.parquet", split)
    assert np.array_equal(table.vectors[split.train.users[0], 0], rows.vector[1])
    wrong = dataclasses.replace(rolled, source_user=rolled.user)
    save(tmp_path / "w.parquet", wrong, split)
    with pytest.raises(LeakageError):
        load(tmp_path / "w.parquet", split)


@pytest.mark.parametrize("stated_digest", ["same", "other"])
def test_one_validation_item_in_one_history_trips_the_guard(tmp_path, split, stated_digest):
    rows = full_rows(split)
    user = split.train.users[4]
    at = int(np.flatnonzero(split.valid.history.users == user)[0])
    seen = [*train_tokens(split, 4), split.dataset.item_tokens[split.valid.targets[at]]]
    rows.history_last[4], rows.history_hash[4] = len(seen), history_hash(seen)
    extra = {} if stated_digest == "same" else {"split_digest": "another"}
    save(tmp_path / "e.parquet", rows, split, **extra)
    with pytest.raises(LeakageError, match="row 4, source_user 'u4', field history_last") as caught:
        load(tmp_path / "e.parquet", split)
    assert "\n" not in str(caught.value)


def test_a_swapped_item_of_equal_length_trips_the_guard(tmp_path, split):
    rows = full_rows(split)
    at = int(np.flatnonzero(split.valid.history.users == split.train.users[4])[0])
    seen = [*train_tokens(split, 4)[:-1], split.dataset.item_tokens[split.valid.targets[at]]]
    rows.history_hash[4] = history_hash(seen)
    save(tmp_path / "e.parquet", rows, split)
    with pytest.raises(LeakageError, match="row 4, source_user 'u4', field history_hash"):
        load(tmp_path / "e.parquet", split)


def test_profiles_of_users_outside_train_are_leaks(tmp_path, tiny, tiny_spec):
    rows = [(f"u{u}", f"i{(u * 3 + k) % 11}", 1.0, 10.0 * k + u) for u in range(8) for k in range(5)]
    dataset = tiny(rows)
    temporal = make_split(dataset, tiny_spec(split={"protocol": "temporal"}).split)
    whole = make_split(dataset, tiny_spec().split)
    save(tmp_path / "e.parquet", full_rows(whole), whole)
    with pytest.raises(LeakageError, match="build the profiles for the split in use"):
        load(tmp_path / "e.parquet", temporal)


@pytest.mark.parametrize("column", ["user", "source_user"])
def test_unknown_user(tmp_path, split, column):
    rows = full_rows(split)
    save(
        tmp_path / "e.parquet",
        dataclasses.replace(rows, **{column: np.array([*rows.user[:5], "bob"], object)}),
        split,
    )
    with pytest.raises(ProfileError, match=f"row 5, field {column}: user 'bob' is not in dataset tiny"):
        load(tmp_path / "e.parquet", split)


def test_the_padding_token_is_no_user(tmp_path, split):
    rows = full_rows(split)
    save(
        tmp_path / "e.parquet",
        dataclasses.replace(rows, user=np.array([*rows.user[:5], "[PAD]"], object)),
        split,
    )
    with pytest.raises(ProfileError, match=r"'\[PAD\]' is not in dataset"):
        load(tmp_path / "e.parquet", split)


def broken(rows, change):
    parts = {f.name: getattr(rows, f.name).copy() for f in dataclasses.fields(rows)}
    change(parts)
    return ProfileRows(**parts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["vector"].__setitem__((2, 1), np.nan), "row 2, field vector: NaN"),
        (lambda p: p["vector"].__setitem__((3, 0), np.inf), "row 3, field vector: NaN or infinite"),
        (lambda p: p["user"].__setitem__(1, p["user"][0]), "row 1: user 'u0', profile 0 stands twice"),
        (lambda p: p["history_last"].__setitem__(4, -1), "row 4, field history_last: -1 is negative"),
        (lambda p: p["profile"].__setitem__(4, -1), "row 4, field profile: -1 is negative"),
        (lambda p: p["profile"].__setitem__(0, 2), "field profile: indices must be 0..K-1"),
        (lambda p: p["profile"].__setitem__(0, 30000), "field profile: indices must be 0..K-1"),
        (lambda p: p.update(vector=p["vector"][:4]), "columns differ in length"),
        (lambda p: p.update(vector=p["vector"][:, 0]), "one vector per row"),
    ],
)
def test_bad_rows_are_neither_written_nor_read(tmp_path, split, change, words):
    with pytest.raises(ProfileError, match=words):
        save(tmp_path / "deep" / "e.parquet", broken(full_rows(split), change), split)
    assert not (tmp_path / "deep").exists()


def raw_table(split, **columns):
    rows = full_rows(split)
    table = {
        "user": pa.array(rows.user, pa.string()),
        "profile": pa.array(rows.profile, pa.int16()),
        "source_user": pa.array(rows.source_user, pa.string()),
        "history_last": pa.array(rows.history_last, pa.int32()),
        "history_hash": pa.array(rows.history_hash, pa.string()),
        "vector": pa.array(rows.vector.tolist(), pa.list_(pa.float32())),
    } | columns
    made = pa.table({k: v for k, v in table.items() if v is not None})
    return made.replace_schema_metadata({"recbole_kd": '{"format": 1, "dimension": 3}'})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"vector": pa.array([[1.0, 2.0, 3.0]] * 5 + [[1.0]])},
            "row 5, field vector: dimension 1, other rows have 3",
        ),
        ({"vector": pa.array([[1.0, 2.0]] * 6)}, "dimension 2 but the manifest says 3"),
        ({"vector": pa.array([[1.0, None, 3.0]] * 6)}, "without blanks"),
        ({"vector": pa.array([["a"]] * 6)}, "expected numbers"),
        ({"vector": pa.array([1.0] * 6)}, "fixed_size_list"),
        ({"vector": pa.array([[1.0, 2.0, float("nan")]] * 6)}, "row 0, field vector: NaN"),
        ({"user": pa.array(["u0", None, "u2", "u3", "u4", "u5"])}, "row 1, field user: blank"),
        ({"history_hash": None}, "field history_hash: column is missing"),
    ],
)
def test_foreign_files_are_refused(tmp_path, split, columns, words):
    pq.write_table(raw_table(split, **columns), tmp_path / "e.parquet")
    with pytest.raises(ProfileError, match=words) as caught:
        load(tmp_path / "e.parquet", split)
    assert str(tmp_path / "e.parquet") in str(caught.value)


def test_variable_lists_of_one_length_are_fine(tmp_path, split):
    pq.write_table(raw_table(split), tmp_path / "e.parquet")
    rows, manifest = read_embedding_file(tmp_path / "e.parquet")
    assert np.array_equal(rows.vector, full_rows(split).vector)
    assert manifest["format"] == 1


def test_no_manifest_other_format_no_parquet_no_file(tmp_path, split):
    path = tmp_path / "e.parquet"
    pq.write_table(raw_table(split).replace_schema_metadata(None), path)
    with pytest.raises(ProfileError, match="no recbole_kd manifest"):
        load(path, split)
    pq.write_table(raw_table(split).replace_schema_metadata({"recbole_kd": '{"format": 9}'}), path)
    with pytest.raises(ProfileError, match="format 9, this version reads 1"):
        load(path, split)
    path.write_text("hello")
    with pytest.raises(ProfileError, match="not a readable parquet file"):
        load(path, split)
    with pytest.raises(ProfileError, match="no such embedding file"):
        load(tmp_path / "absent.parquet", split)


def test_npz_needs_trust(tmp_path, split):
    users = split.dataset.user_tokens[1:4].astype(str)
    vectors = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "e.npz", users=users, vectors=vectors)
    with pytest.raises(ProfileError, match="trust_unverified"):
        load(tmp_path / "e.npz", split)
    table = load_profiles(tmp_path / "e.npz", split, trust_unverified=True)
    assert not table.verified
    assert table.coverage == 0.5
    assert np.array_equal(table.vectors[1:4, 0], vectors)
    np.savez(tmp_path / "k.npz", users=users, vectors=vectors.reshape(3, 2, 1))
    several = load_profiles(tmp_path / "k.npz", split, trust_unverified=True)
    assert np.array_equal(several.vectors[1:4, :, 0], vectors)


def test_bad_npz(tmp_path, split):
    users = split.dataset.user_tokens[1:4].astype(str)
    cases = {
        "users": ({"users": users}, "plain arrays"),
        "pickle": ({"users": split.dataset.user_tokens[1:4], "vectors": np.ones((3, 2))}, "plain arrays"),
        "shape": ({"users": users, "vectors": np.ones((2, 2))}, "does not fit users"),
        "nan": ({"users": users, "vectors": np.full((3, 2), np.nan)}, "NaN"),
        "who": ({"users": np.array(["bob"]), "vectors": np.ones((1, 2))}, "user 'bob' is not in dataset"),
        "twice": ({"users": users[[0, 0]], "vectors": np.ones((2, 2))}, "stands twice"),
    }
    for name, (arrays, words) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ProfileError, match=words):
            load_profiles(tmp_path / f"{name}.npz", split, trust_unverified=True)


def test_a_failed_write_leaves_the_old_file(tmp_path, split, monkeypatch):
    path = tmp_path / "e.parquet"
    save(path, full_rows(split), split)
    before = path.read_bytes()

    def half(table, where, **options):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        save(path, full_rows(split, 2), split)
    assert path.read_bytes() == before
    assert list(tmp_path.glob(".e.parquet*")) == []
