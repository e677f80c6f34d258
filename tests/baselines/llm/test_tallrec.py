"""TALLRec: loss and score by hand from the logits, prompts, labels, shots, nothing held out in training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

pytest.importorskip("peft")

from recbole_kd.baselines.llm.tuned.examples import Ratings
from recbole_kd.baselines.llm.tuned.loop import Task, tune
from recbole_kd.baselines.llm.tuned.tallrec import TallRec, TallRecSpec, auc
from recbole_kd.data.spec import SampleSpec, SplitSpec
from recbole_kd.data.split import make_split
from recbole_kd.data.types import EvalSet, Split
from recbole_kd.errors import SpecError
from tests.students import sequences, tiny_split
from tests.tiny_lm import TITLES, params_of, tiny_answers, toy_split

WORDS = {"person": "user", "item": "film"}
SHORT = {
    "frame": "{instruction}|{input}|\n",
    "instruction": "I",
    "input": "+ {liked} - {disliked} ? {target}",
    "next_instruction": "J",
    "next_input": "+ {liked} ? {target}",
}


def spec(**changes: Any) -> TallRecSpec:
    changes = {"prompt": SHORT, "shots": None, "history": 4, "max_title_tokens": 50} | changes
    return TallRecSpec.model_validate(params_of("ranker", "tallrec", **changes))


def made(split: Split, seed: int = 1, adapters: bool = False, **changes: Any) -> TallRec:
    return TallRec(tiny_answers(adapters), TITLES, WORDS, split, spec(**changes), seed)


def text(system: TallRec, ids: list[int]) -> str:
    return str(system.lm.tokenizer.decode(ids))


def test_auc_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    scores = np.round(rng.random(200) + 0.3 * truth, 1)
    assert auc(truth.tolist(), scores.tolist()) == pytest.approx(roc_auc_score(truth, scores))
    assert np.isnan(auc([True, True], [0.1, 0.2]))


def test_published_prompt_by_hand() -> None:
    """The whole text of a question about rated items."""
    split = toy_split()
    params = TallRecSpec.model_validate(params_of("ranker", "tallrec"))
    system = TallRec(tiny_answers(), TITLES, {"person": "user", "item": "movie"}, split, params, 1)
    assert system.prompt([1, 2], [3], 4) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGiven the user's preference and unpreference, identify whether the user will "
        'like the target movie by answering "Yes." or "No.".\n\n'
        '### Input:\nuser preference: "title a", "title b"\nuser unpreference: "title c"\n'
        'Whether the user will like the target movie "title d"?\n\n### Response:\n'
    )


def test_questions_sort_the_latest_items_by_rating() -> None:
    split = toy_split()
    system = made(split)
    row = 3
    user, history = int(split.test.history.users[row]), split.test.history.row(row)
    sequences = split.dataset.sequences
    assert split.dataset.ratings is not None
    begin = sequences.offsets[row]
    stars = split.dataset.ratings[begin : begin + len(history)]
    latest = list(zip(history.tolist(), stars, strict=True))[-4:]
    liked = ", ".join(f'"{TITLES[i]}"' for i, s in latest if s > 3)
    disliked = ", ".join(f'"{TITLES[i]}"' for i, s in latest if s <= 3)
    found = text(system, system.question(user, history, 2).ids)
    assert found == f'I|+ {liked} - {disliked} ? "title b"|\n'


def test_loss_by_hand_from_the_logits() -> None:
    system = made(toy_split())
    rows = np.array([0, 3, 5, 8])
    total = 0.0
    for row in rows:
        question = system.example(int(row))
        z = system.lm.model(input_ids=torch.tensor([question.ids])).logits[0, -1].double()
        answer = system.lm.encode("Yes" if question.yes else "No")[0]
        total += float((torch.log(torch.exp(z).sum()) - z[answer]).detach())
    with torch.no_grad():
        assert float(system.loss(rows, 1)) == pytest.approx(total / 4, abs=1e-4)


def test_scores_by_hand_from_the_logits() -> None:
    split = toy_split()
    system = made(split)
    user, history = int(split.test.history.users[0]), split.test.history.row(0)
    candidates = [3, 9, 1, 12]
    scores, tokens = system.scores(user, history, candidates)
    yes, no = system.lm.encode("Y")[0], system.lm.encode("N")[0]
    chances: list[float] = []
    length = 0
    for item in candidates:
        ids = system.question(user, history, item).ids
        length += len(ids)
        z = system.lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double().detach()
        chances.append(float(torch.exp(z[yes]) / (torch.exp(z[yes]) + torch.exp(z[no]))))
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), chances, atol=1e-5)
    assert tokens == length
    questions = [system.question(user, history, item) for item in candidates]
    np.testing.assert_allclose(system.chance_of_yes(questions), chances, atol=1e-5)


def test_labels_follow_the_ratings() -> None:
    split = toy_split()
    system = made(split)
    assert system.labels == "ratings"
    assert split.dataset.ratings is not None
    for index in range(len(system)):
        row, at = system.positions.rows[index], system.positions.at[index]
        stars = split.dataset.ratings[split.dataset.sequences.offsets[row] + at]
        assert system.example(index).yes == (stars > 3)


def test_without_ratings_every_second_example_is_a_random_other_item() -> None:
    split = toy_split(ratings=False)
    system = made(split)
    assert system.labels == "next-item"
    for index in range(len(system)):
        row, at = int(system.positions.rows[index]), int(system.positions.at[index])
        items = split.train.row(row)
        question = system.example(index)
        asked = TITLES.index(text(system, question.ids).split("? ")[1].split("|")[0].strip('"'))
        assert question.yes == (index % 2 == 0)
        assert (asked == items[at]) == question.yes
        if not question.yes:
            assert asked not in items


def test_shots_are_nested() -> None:
    split = toy_split(n_users=40)
    chosen = {}
    for shots in (16, 64, None):
        system = made(split, shots=shots)
        chosen[shots] = list(zip(system.positions.rows, system.positions.at, strict=True))
    assert len(chosen[16]) == 16
    assert chosen[64][:16] == chosen[16]
    assert chosen[None][:64] == chosen[64]
    every = {(r, t) for r in range(len(split.train)) for t in range(1, int(split.train.lengths[r]))}
    assert set(chosen[None]) == every
    assert len(chosen[None]) == len(every)


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
@pytest.mark.parametrize("ratings", [True, False])
def test_training_does_not_depend_on_held_out_data(protocol: str, ratings: bool) -> None:
    """Other validation and test targets and other ratings of them: the same examples."""
    split = toy_split(n_users=20, ratings=ratings, protocol=protocol)
    changed = dataclasses.replace(split, valid=_scrambled(split.valid), test=_scrambled(split.test))
    if ratings:
        assert split.dataset.ratings is not None
        stars = split.dataset.ratings.copy()
        row = {int(u): r for r, u in enumerate(split.dataset.sequences.users)}
        train = {int(u): len(split.train.row(r)) for r, u in enumerate(split.train.users)}
        for user, r in row.items():
            begin, end = split.dataset.sequences.offsets[r : r + 2]
            held = slice(begin + train.get(user, 0), end)
            stars[held] = 6 - stars[held]
        changed = dataclasses.replace(changed, dataset=dataclasses.replace(split.dataset, ratings=stars))
    one, other = made(split), made(changed)
    assert len(one) == len(other) > 0
    assert [one.example(i) for i in range(len(one))] == [other.example(i) for i in range(len(one))]


def _scrambled(part: EvalSet) -> EvalSet:
    return EvalSet(part.history, (part.targets % 15) + 1)


def test_ratings_that_are_not_there_are_an_error() -> None:
    with pytest.raises(SpecError, match="the dataset has no ratings; set labels: next-item"):
        made(toy_split(ratings=False), labels="ratings")
    with pytest.raises(SpecError, match=r"every rating is on one side of 9\.0"):
        made(toy_split(), labels="ratings", like_above=9.0)
    assert made(toy_split(), like_above=9.0).labels == "next-item"


def test_titles_cannot_speak_as_the_template() -> None:
    split = toy_split()
    titles = list(TITLES)
    titles[2] = "{target} {0} {instruction}"
    system = TallRec(tiny_answers(), titles, WORDS, split, spec(), 1)
    assert '"{target} {0} {instruction}"' in system.prompt([2], [], 1)


def test_tuning_lowers_the_loss_and_choosing_uses_validation(tmp_path: Path) -> None:
    """A tiny model learns its few examples by heart; the history says which epoch was best on validation."""
    split = toy_split(n_users=30)
    how = {"epochs": 15, "batch_size": 8, "micro_batch": 4, "learning_rate": 0.03, "patience": 15}
    system = made(split, adapters=True, shots=16, tune=how, lora={"dropout": 0.0})
    metric, validate = system.validator()
    assert metric == "auc"
    task = Task(system.lm.model, len(system), system.loss, validate, metric)
    found = tune(task, system.spec.tune, seed=1, file=tmp_path / "c", fingerprint="x")
    losses = [row["loss"] for row in found.history[1:]]
    assert losses[-1] < 0.6 * losses[0]
    values = [row["valid_auc"] for row in found.history]
    assert found.best_epoch == int(np.argmax(values))
    assert system.auc(split.valid, system.valid_rows()) == pytest.approx(max(values))


def test_ratings_of_a_sample_are_those_of_the_latest_interactions() -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    whole = tiny_split().dataset
    values = np.array([1, 1, 1, 1, 5, 5, 5, 5, 5, 5] * 2, np.float32)
    dataset = dataclasses.replace(whole, sequences=sequences(rows), times=np.arange(20.0), ratings=values)
    split = make_split(
        dataset,
        SplitSpec(
            protocol="leave-one-out",
            seed=1,
            quantile=0.8,
            valid_user_share=0.2,
            sample=SampleSpec(users=None, interactions=0.5, seed=1),
        ),
    )
    ratings = Ratings(split)
    assert split.train.row(0).tolist() == [5, 6, 7, 8]
    assert ratings.train().tolist() == [5.0] * 8
    assert ratings.at(1, 0, ratings.train_begin(0)) == 5.0
    assert ratings.at(1, 0) == 1.0  # of an evaluated history, which is whole
