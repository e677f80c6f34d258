"""The table of all methods on the same candidates, by hand and against scipy."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.candidates import CandidateRanks, candidate_frame, half_width, protocol_words

NAN = float("nan")
LABELS = {"dataset": "d", "backbone": "SASRec", "seed": 1}


@pytest.fixture
def frame():
    """Four users, the retriever missed the last; the ranker puts every retrieved target second."""
    users = {"user": list("abcd")}
    plain = {"rank": [1.0, 2, 3, 9], "candidate_rank": [1.0, 2, 3, NAN], "composed": [1.0, 2, 3, 9]}
    llm = {"rank": [2.0, 2, 2, 9], "candidate_rank": [2.0, 2, 2, NAN], "composed": [2.0, 2, 2, 9]}
    rows = [
        pd.DataFrame({**users, **values, **LABELS, "variant": name, "cell": name})
        for name, values in (("plain", plain), ("llm", llm))
    ]
    methods = [("d", "SASRec", "plain"), ("d", "SASRec", "llm")]
    results = SimpleNamespace(methods=lambda: methods, metrics=("MRR",))
    return candidate_frame(results, CandidateRanks(pd.concat(rows), {})).set_index("variant")


def test_means_of_all_and_of_retrieved_users(frame):
    assert frame.loc["plain", "MRR_all"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 9) / 4)
    assert frame.loc["plain", "MRR_retrieved"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert frame.loc["llm", "MRR_all"] == pytest.approx((3 / 2 + 1 / 9) / 4)
    assert frame.loc["llm", "MRR_retrieved"] == pytest.approx(1 / 2)
    assert frame["missed"].tolist() == [1, 1, 1]
    assert frame["users"].tolist() == [4, 4, 4]


def test_the_ceiling_has_every_retrieved_target_first(frame):
    assert frame.loc["ceiling", "MRR_all"] == pytest.approx((3 + 1 / 9) / 4)
    assert frame.loc["ceiling", "MRR_retrieved"] == 1
    assert np.isnan(frame.loc["ceiling", "MRR_full"])


def test_the_interval_is_that_of_scipy_and_none_where_all_are_alike(frame):
    values = np.array([1, 1 / 2, 1 / 3, 1 / 9])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert frame.loc["plain", "MRR_all_half"] == pytest.approx((high - low) / 2)
    assert np.isnan(half_width(np.ones(5)))
    assert np.isnan(half_width(np.ones(1)))


def test_the_protocol_says_what_was_added_by_hand():
    protocol = {"retriever": {"backbone": "SASRec", "variant": "plain"}, "top": 20, "oracle_candidates": True}
    assert protocol_words(protocol).startswith("top 20 of SASRec plain, same seed, full ranking")
    assert "ADDED BY HAND" in protocol_words(protocol)
