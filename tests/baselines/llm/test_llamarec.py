"""LlamaRec: prompt, verbaliser and loss by hand from the logits; negatives; no held-out data in training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("peft")

from recbole_kd.baselines.llm.tuned.llamarec import LlamaRec, LlamaRecSpec
from recbole_kd.baselines.llm.tuned.loop import Task, tune
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.errors import DataError, SpecError
from tests.tiny_lm import TITLES, params_of, tiny_answers, toy_split


def spec(**changes: Any) -> LlamaRecSpec:
    return LlamaRecSpec.model_validate(params_of("ranker", "llamarec", **{"candidates": 5, **changes}))


def made(split: Split, seed: int = 1, adapters: bool = False, **changes: Any) -> LlamaRec:
    return LlamaRec(tiny_answers(adapters), TITLES, split, spec(**changes), seed)


def test_published_prompt_by_hand() -> None:
    system = made(toy_split())
    assert system.prompt([1, 2], [3, 4, 5]) == (
        "### Instruction:\nGiven user history in chronological order, recommend an item from "
        "the candidate pool with its index letter.\n\n### Input:\n"
        "User history: (1) title a \n (2) title b; \n "
        "Candidate pool: (A) title c \n (B) title d \n (C) title e\n\n### Response:\n"
    )


def parsed(system: LlamaRec, ids: list[int]) -> tuple[list[int], list[int]]:
    """History and candidates that a prompt shows."""
    text = str(system.lm.tokenizer.decode(ids))
    history, pool = (
        text.split("User history: ")[1].split("\n\n### Response")[0].split("; \n Candidate pool: ")
    )
    shown = [[TITLES.index(e.split(") ", 1)[1]) for e in p.split(" \n ")] for p in (history, pool)]
    return shown[0], shown[1]


@pytest.mark.parametrize("over", ["vocabulary", "letters"])
def test_loss_by_hand_from_the_logits(over: str) -> None:
    system = made(toy_split(), loss_over=over)
    letters = [system.lm.encode(x)[0] for x in "ABCDE"]
    rows, total = np.array([0, 2, 7]), 0.0
    for row in rows:
        ids, place = system.example(int(row), 2)
        z = system.lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        among = z if over == "vocabulary" else z[letters]
        total += float((torch.log(torch.exp(among).sum()) - z[letters[place]]).detach())
    with torch.no_grad():
        assert float(system.loss(rows, 2)) == pytest.approx(total / 3, abs=1e-4)


def test_verbaliser_by_hand_from_the_logits() -> None:
    split = toy_split()
    system = made(split)
    histories = [split.test.history.row(0), split.test.history.row(1)]
    candidates = [[3, 1, 7, 9, 2], [8, 4]]
    scores, tokens = system.scores(histories, candidates)
    for row in range(2):
        ids = system.encoded(histories[row].tolist(), candidates[row])
        z = system.lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        letters = [system.lm.encode(x)[0] for x in "ABCDE"][: len(candidates[row])]
        np.testing.assert_allclose(scores[row, : len(letters)], z[letters].detach().numpy(), atol=1e-4)
        assert tokens[row] == len(ids)
    assert np.isneginf(scores[1, 2:]).all()


def test_examples_hide_the_target_among_new_negatives() -> None:
    split = toy_split()
    system = made(split)
    places, pools = [], {}
    for epoch in (1, 2):
        for index in range(len(system)):
            ids, place = system.example(index, epoch)
            history, pool = parsed(system, ids)
            at = (epoch - 1) * len(system) + index
            at %= len(system.positions)
            row, t = int(system.positions.rows[at]), int(system.positions.at[at])
            items = split.train.row(row)
            assert history == items[:t].tolist()[-20:]
            assert pool[place] == items[t]
            assert len(set(pool)) == 5
            assert not set(pool) & set(history)
            places.append(place)
            pools.setdefault((row, t), []).append(tuple(pool))
    assert set(places) == set(range(5))
    assert any(a != b for a, b in pools.values())


def test_epochs_of_few_examples_walk_through_all_positions() -> None:
    split = toy_split()
    rows = [split.train.row(r).tolist() for r in range(len(split.train))]
    every = Counter(tuple(row[: t + 1]) for row in rows for t in range(1, len(row)))
    system = made(split, examples=7)
    assert len(system) == 7
    seen: Counter[tuple[int, ...]] = Counter()
    for epoch in range(1, every.total() // 7 + 1):
        for index in range(7):
            ids, place = system.example(index, epoch)
            history, pool = parsed(system, ids)
            seen[(*history, pool[place])] += 1
    assert seen.total() > every.total() - 7
    assert not seen - every


def test_training_does_not_depend_on_held_out_data() -> None:
    split = toy_split(n_users=20)
    other = [EvalSet(p.history, (p.targets % 15) + 1) for p in (split.valid, split.test)]
    changed = dataclasses.replace(split, valid=other[0], test=other[1])
    one, two = made(split), made(changed)
    assert [one.example(i, 1) for i in range(len(one))] == [two.example(i, 1) for i in range(len(two))]
    held = set(range(1, 16)) - set(split.train.items.tolist())
    shown = {item for i in range(len(one)) for item in parsed(one, one.example(i, 1)[0])[1]}
    assert not shown & held


def test_long_prompts_lose_their_oldest_history() -> None:
    system = made(toy_split(), max_tokens=260)
    ids = system.encoded([1, 2, 3, 4, 5], [6, 7])
    assert len(ids) <= 260
    history, pool = parsed(system, ids)
    assert history == [1, 2, 3, 4, 5][-len(history) :]
    assert 0 < len(history) < 5
    assert pool == [6, 7]
    with pytest.raises(SpecError, match="do not hold 5 candidates"):
        made(toy_split(), max_tokens=64).encoded([1], [2, 3, 4, 5, 6])


def test_more_letters_than_the_alphabet_or_than_items() -> None:
    with pytest.raises(ValueError, match="26"):
        spec(candidates=27)
    with pytest.raises(DataError, match="19 negatives are wanted"):
        made(toy_split(), candidates=20).example(0, 1)


def test_tuning_lowers_the_loss(tmp_path: Path) -> None:
    how = {"epochs": 10, "batch_size": 8, "learning_rate": 0.03, "patience": 20}
    system = made(toy_split(n_users=30), adapters=True, examples=24, tune=how, loss_over="letters")
    task = Task(system.lm.model, len(system), system.loss, lambda: 0.0, "ndcg@10")
    found = tune(task, system.spec.tune, seed=1, file=tmp_path / "c", fingerprint="x")
    losses = [row["loss"] for row in found.history[1:]]
    assert min(losses[5:]) < losses[0]
