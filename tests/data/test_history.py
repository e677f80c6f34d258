from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from recbole_kd.data.history import HistoryHasher, history_hash, prefix_hashes

tokens = st.lists(st.text(alphabet="a1:2,\u00e9", max_size=4), max_size=6)


@given(tokens, tokens)
def test_equal_hash_means_equal_history(first, second):
    assert (history_hash(first) == history_hash(second)) == (first == second)


@given(tokens)
def test_prefixes_and_hasher_agree_with_the_plain_hash(history):
    assert prefix_hashes(history) == [history_hash(history[:n]) for n in range(len(history) + 1)]
    assert HistoryHasher(history)(range(len(history))) == history_hash(history)


def test_written_down_value():
    assert history_hash(["12", "\u00e9"]) == hashlib.sha256(b"2:12" + b"2:\xc3\xa9").hexdigest()[:16]
