from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_kd.data.load import load_item_texts
from recbole_kd.errors import DataError

rows_of_anything = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", "NA", "\u00fc", "5"]),
        st.sampled_from(["i1", "i2", "i3", "null", "4", "x y"]),
        st.sampled_from([1.0, 2.5, 4.0, 5.0]),
        st.sampled_from([0.5, 1.0, 978300719.0, 978300720.0, 978300721.0]),
    ),
    min_size=1,
    max_size=30,
)
anew = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def histories(dataset):
    """user token -> [(item token, time)] as loaded."""
    sequences = dataset.sequences
    return {
        dataset.user_tokens[user]: [
            (dataset.item_tokens[item], time)
            for item, time in zip(
                sequences.row(r), dataset.times[sequences.offsets[r] : sequences.offsets[r + 1]], strict=True
            )
        ]
        for r, user in enumerate(sequences.users)
    }


def brute_core(rows, min_user, min_item, iterate):
    while True:
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        kept = [r for r in rows if users[r[0]] >= min_user and items[r[1]] >= min_item]
        if kept == rows or not iterate:
            return kept
        rows = kept


@anew
@given(rows_of_anything)
def test_order_is_time_then_file_line_and_ids_count_first_appearances(tiny, rows):
    dataset = tiny(rows)
    expected = {}
    for user, item, _, time in sorted(rows, key=lambda r: r[3]):
        expected.setdefault(user, []).append((item, time))
    assert histories(dataset) == expected
    assert dataset.user_tokens.tolist() == ["[PAD]", *dict.fromkeys(r[0] for r in rows)]
    assert dataset.item_tokens.tolist() == ["[PAD]", *dict.fromkeys(r[1] for r in rows)]
    assert np.array_equal(dataset.sequences.users, np.arange(1, dataset.n_users))
    flat = [rows[i] for i in dataset.file_rows]
    assert [r[1] for r in flat] == dataset.item_tokens[dataset.sequences.items].tolist()
    assert [r[2] for r in flat] == dataset.ratings.tolist()


@anew
@given(
    rows_of_anything, st.integers(0, 4), st.integers(0, 4), st.booleans(), st.sampled_from([None, 2.5, 4.0])
)
def test_filters_equal_brute_force(tiny, rows, min_user, min_item, iterate, min_rating):
    rated = [r for r in rows if min_rating is None or r[2] >= min_rating]
    kept = brute_core(rated, min_user, min_item, iterate)
    chosen = {
        "min_rating": min_rating,
        "min_user_inter": min_user,
        "min_item_inter": min_item,
        "iterate": iterate,
    }
    if not kept:
        with pytest.raises(DataError, match="filters keep no interaction"):
            tiny(rows, filter=chosen)
        return
    dataset = tiny(rows, filter=chosen)
    assert [kept[i][1] for i in dataset.file_rows] == dataset.item_tokens[dataset.sequences.items].tolist()
    assert dataset.counts["interactions"] == len(kept)
    assert dataset.counts["dropped_by_rating"] == len(rows) - len(rated)
    assert dataset.counts["dropped_by_count"] == len(rated) - len(kept)
    assert dataset.counts["users"] == dataset.n_users - 1 == len({r[0] for r in kept})


def test_times_that_float32_would_merge_keep_their_order(tiny):
    times = [978300764.0, 978300763.0, 978300762.0, 978300761.0]
    assert len({np.float32(t) for t in times}) == 1
    dataset = tiny([("u", f"i{n}", 1.0, time) for n, time in enumerate(times)])
    assert dataset.item_tokens[dataset.sequences.items].tolist() == ["i3", "i2", "i1", "i0"]


def test_digest_follows_content_only(tiny):
    rows = [("u", "a", 1.0, 1.0), ("u", "b", 2.0, 2.0), ("v", "a", 3.0, 1.0)]
    first = tiny(rows).digest
    assert tiny(rows, name="tiny", split={"seed": 8}).digest == first
    changed = [
        [rows[1], rows[0], rows[2]],
        [("u", "a", 1.0, 1.5), *rows[1:]],
        [("u", "a", 1.5, 1.0), *rows[1:]],
        [("w", "a", 1.0, 1.0), ("w", "b", 2.0, 2.0), rows[2]],
        rows[:2],
    ]
    digests = [tiny(other).digest for other in changed]
    assert len({first, *digests}) == len(changed) + 1


def test_reserved_and_absent_things_are_refused(tiny, tiny_spec, tmp_path):
    with pytest.raises(DataError, match="reserved"):
        tiny([("u", "[PAD]", 1.0, 1.0)])
    with pytest.raises(DataError, match=r"fields\.rating"):
        tiny([("u", "a", 1.0, 1.0)], fields={"rating": None}, filter={"min_rating": 3.0})
    with pytest.raises(DataError, match="no such file"):
        load_item_texts(tiny_spec())


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_item_texts_are_raw(tmp_path, tiny_spec, ending):
    lines = [
        "item_id:token\ttitle:token_seq\tbrand:token\tcategory:token_seq",
        "a\t7\" \"Single\", \u00e9dition\tX\t'Makeup', 'Nail Polish'",
        "NA\tnull\t\t",
    ]
    (tmp_path / "tiny.item").write_bytes(b"\xef\xbb\xbf" + ending.join(lines).encode() + ending.encode())
    assert load_item_texts(tiny_spec()) == {
        "a": {"title": '7" "Single", \u00e9dition', "category": "'Makeup', 'Nail Polish'"},
        "NA": {"title": "null", "category": ""},
    }
    assert load_item_texts(tiny_spec(text=None)) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("a\tx\n", "line 2: 2 fields"),
        ("a\tx\ty\na\tz\ty\n", "line 3, field item_id: item 'a' stands twice"),
        ("\tx\ty\n", "line 2, field item_id: blank"),
        ("", "no rows"),
    ],
)
def test_bad_item_files(tmp_path, tiny_spec, body, words):
    (tmp_path / "tiny.item").write_text("item_id:token\ttitle:token_seq\tcategory:token_seq\n" + body)
    with pytest.raises(DataError, match=words):
        load_item_texts(tiny_spec())


def test_item_file_without_the_named_column(tmp_path, tiny_spec):
    (tmp_path / "tiny.item").write_text("item_id:token\ttitle:token_seq\na\tx\n")
    with pytest.raises(DataError, match="no column 'category'"):
        load_item_texts(tiny_spec())


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("ml-1m", 6040, 3706, 1000209),
        ("amazon-beauty", 22363, 12101, 198502),
        ("ml-latest-small", 610, 9724, 100836),
    ],
)
def test_published_sizes(shared_data, monkeypatch, name, users, items, interactions):
    from recbole_kd.data.load import load_dataset
    from recbole_kd.data.spec import read_dataset_spec

    monkeypatch.setenv("RECBOLE_KD_DATA", str(shared_data))
    spec = read_dataset_spec(name)
    dataset = load_dataset(spec)
    assert (dataset.n_users - 1, dataset.n_items - 1, len(dataset.times)) == (users, items, interactions)
    texts = load_item_texts(spec)
    assert set(dataset.item_tokens[1:]) <= set(texts)
