"""Ranks against a double loop, scipy and RecBole's own evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from recbole_kd import ranking
from recbole_kd.data.types import EvalSet
from recbole_kd.metrics import per_user
from recbole_kd.models.build import build_student
from recbole_kd.ranking import average_tie_rank, last_items, rank_all, rank_targets
from tests.students import BACKBONES, HPARAMS, sequences


def _brute_force(scores, target, seen):
    """Average place of the target among its ties, over items 1..V-1 that compete."""
    rivals = [i for i in range(1, len(scores)) if i == target or i not in seen]
    better = sum(scores[i] > scores[target] for i in rivals)
    tied = sum(scores[i] == scores[target] for i in rivals)
    return better + (tied + 1) / 2


@given(st.integers(0, 10_000))
def test_against_brute_force_with_ties(seed):
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, 15, size=rng.integers(1, 9)).tolist() for _ in range(7)]
    targets = rng.integers(1, 15, size=7)
    scores = rng.integers(0, 4, size=(7, 15)).astype(np.float32)  # few values: many ties
    eval_set = EvalSet(sequences(histories), targets)
    rows = iter(torch.from_numpy(scores).split(3))
    ranks = rank_all(lambda item_seq, item_seq_len: next(rows), eval_set, max_len=5, batch_size=3)
    for u in range(7):
        assert ranks.rank[u] == _brute_force(scores[u], targets[u], set())
        assert ranks.rank_masked[u] == _brute_force(scores[u], targets[u], set(histories[u]))


def test_against_scipy():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(20, 30)).astype(np.float32)
    target = rng.integers(1, 30, size=20)
    got = average_tie_rank(torch.from_numpy(scores), torch.from_numpy(target)).numpy()
    want = [rankdata(-scores[u, 1:], method="average")[target[u] - 1] for u in range(20)]
    assert got.tolist() == want


def test_excluded_items_do_not_compete_but_the_target_does():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 3, size=(20, 15)).astype(np.float32)
    target = rng.integers(1, 15, size=20)
    excluded = rng.random((20, 15)) < 0.4
    got = average_tie_rank(*map(torch.from_numpy, (scores, target, excluded)))
    want = [_brute_force(scores[u], target[u], set(np.flatnonzero(excluded[u]))) for u in range(20)]
    assert got.tolist() == want


def test_ranks_go_by_strips_and_by_scores_that_are_no_numbers(monkeypatch):
    monkeypatch.setattr(ranking, "_STRIP_BYTES", 3 * 4 * 30)  # three rows
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 6, size=(20, 30)).astype(np.float32))
    scores[:, 7], scores[:, 8], scores[:, 9] = -torch.inf, torch.inf, torch.nan
    target = torch.from_numpy(rng.integers(10, 30, size=20))
    better = ((scores > scores.gather(1, target[:, None])) & (torch.arange(30) > 0)).sum(1)
    equal = ((scores == scores.gather(1, target[:, None])) & (torch.arange(30) > 0)).sum(1) - 1
    assert torch.equal(average_tie_rank(scores, target), 1 + better + equal / 2)
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(average_tie_rank(scores.to(dtype), target), 1 + better + equal / 2)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_tile_is_as_long_as_its_longest_history_and_users_keep_their_places(name):
    rng = np.random.default_rng(5)
    histories = [rng.integers(1, 40, size=n).tolist() for n in rng.permutation(np.r_[1:31, 1:11])]
    part = EvalSet(sequences(histories), rng.integers(1, 40, size=40))
    model = build_student(name, HPARAMS[name], n_items=40, max_len=20, seed=1).eval()
    widths = []
    serve = model.serve_states

    def watched(item_seq, item_seq_len, user):
        widths.append(item_seq.shape[1])
        return serve(item_seq, item_seq_len, user)

    model.serve_states = watched
    found = rank_targets(model, part, max_len=20, batch_size=8)
    assert widths == [8, 16, 16, 20, 20]
    model.serve_states = serve
    items, bias = model.item_table()

    def padded(item_seq, item_seq_len):
        with torch.no_grad():
            scores = model.serve_states(item_seq, item_seq_len) @ items.t()
            return scores if bias is None else scores + bias

    plain = rank_all(padded, part, max_len=20, batch_size=8)
    assert np.array_equal(found.rank, plain.rank)
    assert np.array_equal(found.rank_masked, plain.rank_masked)


def test_constant_scores_earn_nothing():
    got = average_tie_rank(torch.zeros(1, 102), torch.tensor([5]))
    assert got.tolist() == [51.0]  # the middle of 101 items, not the top


def test_nan_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        average_tie_rank(torch.full((1, 4), float("nan")), torch.tensor([2]))


def test_last_items_keeps_the_newest_and_pads_right():
    eval_set = EvalSet(sequences([[1, 2, 3, 4, 5], [6], [7, 8, 9]]), np.array([1, 2, 3]))
    item_seq, item_seq_len = last_items(eval_set, slice(0, 3), 3)
    assert item_seq.tolist() == [[3, 4, 5], [6, 0, 0], [7, 8, 9]]
    assert item_seq_len.tolist() == [3, 1, 3]


def test_metrics_from_ranks_equal_recboles_evaluator(tmp_path):
    """Same scores, same targets: NDCG, Recall, Hit and MRR at 5, 10, 20 as RecBole computes them."""
    from recbole.evaluator import Collector, Evaluator

    from recbole_kd.compat import recbole_config

    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(60.0, dtype=np.float32), (40, 1)), axis=1))
    scores[:, 0] = -np.inf
    target = torch.from_numpy(rng.integers(1, 60, size=40))
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "d.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1\n")
    config = recbole_config(
        "SASRec",
        "d",
        {
            "data_path": str(tmp_path),
            "metrics": ["NDCG", "Recall", "Hit", "MRR"],
            "topk": [5, 10, 20],
            "metric_decimal_place": 12,
            "train_neg_sample_args": None,
            "eval_args": {
                "mode": "full",
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
            },
        },
    )
    collector = Collector(config)
    collector.eval_batch_collect(scores.clone(), {}, torch.arange(40), target)
    theirs = Evaluator(config).evaluate(collector.get_data_struct())
    rank = average_tie_rank(scores, target).numpy()
    for name, value in theirs.items():
        assert per_user(rank, name.replace("hit", "hr")).mean() == pytest.approx(value, abs=1e-9), name
