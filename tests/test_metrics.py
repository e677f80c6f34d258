"""Metrics from ranks, against hand calculation and a brute-force list."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_kd.errors import SpecError
from recbole_kd.metrics import parse_metric, per_user, standard_name


@pytest.mark.parametrize(
    ("rank", "metric", "expected"),
    [
        (1, "NDCG@10", 1.0),
        (2, "NDCG@10", 1 / math.log2(3)),
        (10, "NDCG@10", 1 / math.log2(11)),
        (11, "NDCG@10", 0.0),
        (2.5, "NDCG@10", 1 / math.log2(3.5)),
        (10.5, "NDCG@10", 0.0),
        (10.5, "Recall@10", 0.0),
        (10.0, "Recall@10", 1.0),
        (9.5, "HR@10", 1.0),
        (9.5, "Hit@10", 1.0),
        (4, "MRR", 0.25),
        (4, "MRR@3", 0.0),
        (1.5, "MRR@3", 1 / 1.5),
        (np.inf, "MRR", 0.0),
        (np.inf, "Recall@100", 0.0),
    ],
)
def test_hand_calculated(rank: float, metric: str, expected: float) -> None:
    assert per_user([rank], metric)[0] == pytest.approx(expected, abs=1e-15)


def brute_force(position: int, k: int) -> dict[str, float]:
    """Metrics of a recommendation list with one relevant item, by their textbook sums."""
    hits = [1.0 if i == position else 0.0 for i in range(1, k + 1)]
    dcg = sum(h / math.log2(i + 1) for i, h in enumerate(hits, start=1))
    rr = next((1 / i for i, h in enumerate(hits, start=1) if h), 0.0)
    return {"NDCG": dcg / (1 / math.log2(2)), "Recall": sum(hits), "HR": float(any(hits)), "MRR": rr}


@given(st.integers(1, 60), st.integers(1, 50))
def test_whole_ranks_agree_with_the_list(position: int, k: int) -> None:
    for name, expected in brute_force(position, k).items():
        assert per_user([position], f"{name}@{k}")[0] == pytest.approx(expected)


def test_shape_and_type_are_kept() -> None:
    values = per_user(np.ones((2, 3), dtype=np.float32), "ndcg@5")
    assert values.shape == (2, 3)
    assert values.dtype == np.float64
    assert per_user([], "MRR").shape == (0,)


def test_names() -> None:
    assert parse_metric("recall@20") == ("Recall", 20)
    assert parse_metric("mrr") == ("MRR", None)
    assert standard_name("hit@10") == "HR@10"


@pytest.mark.parametrize("metric", ["NDCG", "NDCG@0", "NDGC@10", "NDCG@ten", "", "NDCG@10@5"])
def test_unknown_metric_is_one_clear_line(metric: str) -> None:
    with pytest.raises(SpecError) as error:
        per_user([1.0], metric)
    assert "\n" not in str(error.value)


def test_misspelling_is_answered_with_a_suggestion() -> None:
    with pytest.raises(SpecError, match="did you mean 'NDCG'"):
        parse_metric("NDGC@10")


@pytest.mark.parametrize("rank", [0.5, 0, -1, float("nan")])
def test_impossible_rank_is_refused(rank: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        per_user([rank], "NDCG@10")
