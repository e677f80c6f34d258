"""Candidate sets and the ranks that a re-ranking gives, against lists sorted one by one."""

import numpy as np
import pytest
import torch

from recbole_kd.baselines.llm.candidates import (
    build_candidates,
    candidate_ranks,
    encode_sets,
    read_sets,
    reranked,
    sampled_rows,
)
from recbole_kd.baselines.llm.spec import CandidatesSpec
from recbole_kd.data.types import Dataset, EvalSet, Sequences, Split
from recbole_kd.ranking import rank_rows

USERS, ITEMS = 40, 30


def spec(**changes):
    given = {
        "retriever": None,
        "top": 6,
        "max_users": None,
        "seed": 3,
        "exclude_seen": False,
        "oracle_candidates": False,
        "parts": ["test"],
    }
    return CandidatesSpec.model_validate(given | changes)


@pytest.fixture
def part():
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 9, USERS)
    items = np.concatenate([draw.permutation(np.arange(1, ITEMS))[:n] for n in lengths])
    history = Sequences(np.arange(1, USERS + 1), np.r_[0, np.cumsum(lengths)].astype(np.int64), items)
    return EvalSet(history, draw.integers(1, ITEMS, USERS))


@pytest.fixture(params=["distinct", "ties"])
def score(request):
    draw = np.random.default_rng(1)
    shape = USERS, ITEMS
    table = draw.normal(size=shape) if request.param == "distinct" else draw.integers(0, 6, shape)
    whole = torch.from_numpy(np.asarray(table, np.float32))
    return lambda part, rows: whole[part.history.users[rows] - 1].clone()


def build(score, part, chosen):
    return build_candidates(score, part, "test", chosen, USERS + 1, batch_size=7)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_candidates_are_the_best_items_in_order(score, part, exclude_seen):
    sets = build(score, part, spec(exclude_seen=exclude_seen))
    for row in range(USERS):
        scores = score(part, slice(row, row + 1))[0].numpy()
        seen = set(part.history.row(row).tolist()) if exclude_seen else set()
        best = sorted((i for i in range(1, ITEMS) if i not in seen), key=lambda i: (-scores[i], i))[:6]
        assert sets.items[row].tolist() == best
        for place, item in enumerate(best):
            others = scores[[i for i in range(1, ITEMS) if i != item]]
            expected = 1 + (others > scores[item]).sum() + (others == scores[item]).sum() / 2
            assert sets.slots[row, place] == expected


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("oracle", [False, True])
def test_the_retrievers_order_gives_its_ranks_exactly(score, part, exclude_seen, oracle):
    sets = build(score, part, spec(exclude_seen=exclude_seen, oracle_candidates=oracle))
    ranks = reranked(sets, sets.retriever_scores())
    plain = rank_rows(lambda rows: score(part, rows), part, batch_size=7)
    assert ranks.rank.tolist() == plain.rank.tolist() == sets.ranks.rank.tolist()
    assert ranks.rank_masked.tolist() == plain.rank_masked.tolist()


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ranks_are_those_of_the_whole_list_with_its_candidates_permuted(part, exclude_seen):
    draw = np.random.default_rng(2)
    table = torch.from_numpy(draw.normal(size=(USERS, ITEMS)).astype(np.float32))
    sets = build(lambda p, rows: table[rows].clone(), part, spec(exclude_seen=exclude_seen))
    given = draw.permuted(np.tile(np.arange(6.0), (USERS, 1)), axis=1)
    ranks = reranked(sets, given)
    for row, target in enumerate(part.targets.tolist()):
        whole = sorted(range(1, ITEMS), key=lambda i: -table[row, i].item())
        candidates = [i for i in whole if i in sets.items[row]]
        again = iter(sorted(candidates, key=lambda i: -given[row, list(sets.items[row]).index(i)]))
        composed = [next(again) if i in sets.items[row] else i for i in whole]
        assert ranks.rank[row] == 1 + composed.index(target)
        # Without the history's items the remaining candidates keep the remaining slots in the new order.
        seen = set(part.history.row(row).tolist()) - {target}
        left = [i for i in whole if i not in seen]
        again = iter(i for i in composed if i in sets.items[row] and i not in seen)
        masked = [next(again) if i in sets.items[row] else i for i in left]
        assert ranks.rank_masked[row] == 1 + masked.index(target)


def test_an_oracle_reaches_the_ceiling_and_no_more(score, part):
    sets = build(score, part, spec())
    knows = (sets.items == part.targets[:, None]).astype(float)
    ranks, found = reranked(sets, knows), sets.target_places() >= 0
    assert found.any()
    assert not found.all()
    assert (ranks.rank[~found] == sets.ranks.rank[~found]).all()
    inside = candidate_ranks(sets, knows)
    assert (inside[found] == 1).all()
    assert np.isnan(inside[~found]).all()
    assert (ranks.rank[found] == sets.slots.min(1)[found]).all()


def test_oracle_candidates_hold_every_target(score, part):
    sets = build(score, part, spec(oracle_candidates=True))
    assert (sets.target_places() >= 0).all()
    plain = build(score, part, spec())
    missed = plain.target_places() < 0
    assert (sets.items[~missed] == plain.items[~missed]).all()
    assert (sets.items[missed, :-1] == plain.items[missed, :-1]).all()
    # Where only the last place was exchanged, its slot is the target's own rank.
    assert (sets.slots[missed, -1] == plain.ranks.rank[missed]).all()


def test_ties_among_candidates_share_their_places(part):
    table = torch.arange(ITEMS, 0, -1).float().repeat(USERS, 1)
    sets = build(lambda p, rows: table[rows].clone(), part, spec())
    ranks = reranked(sets, np.zeros((USERS, 6)))
    found = sets.target_places() >= 0
    assert (ranks.rank[found] == 3.5).all()


def test_users_are_sampled_by_seed_and_samples_are_nested(part):
    small, large = sampled_rows(part, USERS + 1, 5, 3), sampled_rows(part, USERS + 1, 12, 3)
    assert len(small) == 5
    assert set(small) < set(large)
    assert set(sampled_rows(part, USERS + 1, 5, 4)) != set(small)
    # Another part that lacks some users keeps the order of turns.
    rest = part.take(np.setdiff1d(np.arange(USERS), small[:2]))
    again = sampled_rows(rest, USERS + 1, 12, 3)
    left = set(part.history.users[large]) - set(part.history.users[small[:2]])
    assert left <= set(rest.history.users[again])


def test_sampled_users_have_the_sets_they_would_have_among_all(score, part):
    whole, few = build(score, part, spec()), build(score, part, spec(max_users=9))
    rows = np.searchsorted(whole.users, few.users)
    assert len(few) == 9
    for name in ("items", "slots", "slots_masked"):
        np.testing.assert_array_equal(getattr(whole, name)[rows], getattr(few, name))
    np.testing.assert_array_equal(part.targets[rows], few.eval_set.targets)


@pytest.mark.parametrize("top", [6, 50])
def test_a_file_gives_back_what_was_written(tmp_path, score, part, top):
    tokens = lambda c, n: np.array(["[PAD]", *(f"{c}{i}" for i in range(1, n))], object)  # noqa: E731
    names = tokens("u", USERS + 1), tokens("i", ITEMS)
    dataset = Dataset("toy", *names, part.history, np.zeros(0), None, {}, "d")
    split = Split(dataset, part.history, part, part, "s")
    chosen = spec(top=top, exclude_seen=True, max_users=20)
    sets = build(score, part, chosen)
    path = tmp_path / "sets.parquet"
    path.write_bytes(encode_sets({"test": sets}, dataset, chosen.sets()))
    again = read_sets(path, split)["test"]
    for name in ("items", "slots", "slots_masked"):
        np.testing.assert_array_equal(getattr(sets, name), getattr(again, name))
    np.testing.assert_array_equal(sets.ranks.rank_masked, again.ranks.rank_masked)
    np.testing.assert_array_equal(sets.eval_set.history.items, again.eval_set.history.items)


def test_a_ranker_that_scores_nan_is_refused(score, part):
    sets = build(score, part, spec())
    with pytest.raises(ValueError, match="NaN"):
        reranked(sets, np.full((USERS, 6), np.nan))
