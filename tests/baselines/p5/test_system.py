"""P5 whole: prompts, training from the train part only, learning, ranks, resuming, rebuilding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("transformers")

from recbole_kd.baselines.llm.tuned import loop
from recbole_kd.baselines.p5 import system as p5_system
from recbole_kd.baselines.p5.system import P5, P5Spec, check, fit, rebuilt
from recbole_kd.baselines.p5.words import PretrainedWords, Words, encode
from recbole_kd.baselines.run import rank_computed
from recbole_kd.data.types import EvalSet, Sequences, Split
from recbole_kd.errors import SpecError
from recbole_kd.metrics import per_user
from recbole_kd.training.spec import StudentSpec
from tests.conftest import ROOT
from tests.tiny_lm import toy_split

TINY = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.0,
    "beam": 6,
    "history": 5,
}


def student(hparams: dict[str, Any] | None = None, train: dict[str, Any] | None = None) -> StudentSpec:
    data = yaml.safe_load((ROOT / "properties" / "model" / "P5.yaml").read_text(encoding="utf-8"))
    data["hparams"] |= TINY | (hparams or {})
    data["train"] |= {"epochs": 2, "train_batch_size": 8} | (train or {})
    return StudentSpec.model_validate({"distill": None, **data})


def own(**changes: Any) -> P5Spec:
    return P5Spec.model_validate(student(changes).hparams)


def circle(n_users: int, n_items: int = 10) -> Split:
    """The next item is always the following number: something that can be learned."""
    split = toy_split(n_users=4, n_items=n_items)
    rng = np.random.default_rng(0)
    rows = [(rng.integers(n_items) + np.arange(6)) % n_items + 1 for _ in range(n_users)]
    users = np.arange(1, n_users + 1)

    def cut(k: int) -> Sequences:
        return Sequences(users, np.arange(n_users + 1) * k, np.concatenate([r[:k] for r in rows]))

    valid = EvalSet(cut(4), np.array([r[4] for r in rows]))
    test = EvalSet(cut(5), np.array([r[5] for r in rows]))
    return dataclasses.replace(split, train=cut(4), valid=valid, test=test)


def test_prompt_and_answer_by_hand() -> None:
    split = toy_split()
    system = P5(split, own(indexing="sequential"), 1, "cpu")
    a, b = split.train.row(0)[:2].tolist()
    assert system.prompt(system.spec.asked, 7, np.array([a, b])) == (
        "Considering catalogue user_7 has interacted with catalogue items item_1001 , item_1002 . What "
        "is the next recommendation for the user ?"
    )
    ids, words = encode(system.words, "catalogue item_1001 ,")
    assert words == [1, 2, 2, 2, 2, 3, 0]
    assert system.sequences[a] == [*ids[:5], system.words.eos]


def test_words_know_every_number_and_cluster() -> None:
    words = Words(["hello item_ , <CI3><CI12>"])
    for text in ("1001", "12101", "<CI3><CI12>", "item_1001", "7", "hello,"):
        assert 2 not in encode(words, text)[0]
    assert len({tuple(encode(words, str(n))[0]) for n in range(1001, 13000)}) == 11999
    assert encode(words, "unheard")[0] == [2, 1]


def test_examples_are_of_the_train_part_and_walk_through_it() -> None:
    split = toy_split()
    other = [EvalSet(p.history, p.targets % 15 + 1) for p in (split.valid, split.test)]
    changed = dataclasses.replace(split, valid=other[0], test=other[1])
    one, two = (P5(s, own(), 1, "cpu") for s in (split, changed))
    listed = [one.example(i, 1) for i in range(len(one))]
    assert listed == [two.example(i, 1) for i in range(len(two))]
    wanted = sorted(int(i) for r in range(len(split.train)) for i in split.train.row(r)[1:])
    assert sorted(target for _, target in listed) == wanted
    begins = {
        prompt.split()[0] for e in range(1, 5) for i in range(len(one)) for prompt in [one.example(i, e)[0]]
    }
    assert begins == {
        template.format(dataset="catalogue", user_id=0, history="").split()[0] for template in one.spec.seen
    }


@pytest.mark.slow
@pytest.mark.parametrize("indexing", ["random", "sequential", "collaborative"])
def test_learns_a_circle(tmp_path: Path, indexing: str) -> None:
    """Loss falls, and most targets come early, also asked by a prompt that training never showed."""
    ask = "unseen:0"
    split = circle(n_users=250)
    spec = student(
        {"indexing": indexing, "clusters": 3, "cluster_size": 4, "ask": ask, "d_model": 32, "beam": 10},
        {"epochs": 20, "learning_rate": 0.003, "stopping_step": 30, "train_batch_size": 16},
    )
    result, scorer = fit(split, spec, seed=1, device="cpu", folder=tmp_path)
    losses = [row["loss"] for row in result.history[1:]]
    assert losses[-1] < 0.5 * losses[0]
    ranks = rank_computed(scorer, split.test, batch_size=16)
    assert float(per_user(ranks.rank, "NDCG@10").mean()) > 0.6  # chance: .45


def test_items_outside_the_beam_share_the_mean_of_what_is_left(tmp_path: Path) -> None:
    split = toy_split(n_users=20)
    result, scorer = fit(split, student({"beam": 4}), seed=1, device="cpu", folder=tmp_path)
    scores = scorer.score(split.test, slice(0, len(split.test)))
    inside = ~scores.isneginf()
    assert (inside.sum(1) == 4).all()
    assert not bool(inside[:, 0].any())
    ranks = rank_computed(scorer, split.test, batch_size=7)
    for row, target in enumerate(split.test.targets.tolist()):
        if inside[row, target]:
            assert ranks.rank[row] == 1 + int((scores[row] > scores[row, target]).sum())
        else:
            assert ranks.rank[row] == (5 + 15) / 2
    assert result.n_parameters == sum(v.numel() for v in result.state_dict.values())


def test_full_beam_equals_scoring_every_name(tmp_path: Path) -> None:
    """Whole system: beam of the catalogue's size = log p of each name, one by one."""
    split = toy_split(n_users=6)
    system = P5(split, own(beam=15, indexing="collaborative", clusters=2, cluster_size=4), 1, "cpu")
    found = system.score(split.test, slice(0, 6))
    prompts = [
        system.prompt(system.spec.asked, int(u), split.test.history.row(r))
        for r, u in enumerate(split.test.history.users[:6])
    ]
    for item in range(1, 16):
        names = torch.tensor([system.sequences[item]]).expand(6, -1)
        with torch.no_grad():
            expected = system.model.log_probabilities(*system.batch(prompts), names, 0)
        torch.testing.assert_close(found[:, item], expected, atol=1e-4, rtol=1e-4)


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, spec = toy_split(), student({"save_every": 1, "dropout": 0.2})
    whole, _ = fit(split, spec, seed=1, device="cpu", folder=tmp_path / "a")
    steps = [0]
    plain = loop._Run._step

    def dying(self: Any, rows: Any, epoch: int) -> float:
        steps[0] += 1
        if steps[0] == 6:
            raise KeyboardInterrupt
        return plain(self, rows, epoch)

    monkeypatch.setattr(loop._Run, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(split, spec, seed=1, device="cpu", folder=tmp_path / "b")
    found, _ = fit(split, spec, seed=1, device="cpu", folder=tmp_path / "b")
    assert found.best_epoch == whole.best_epoch
    assert all(torch.equal(found.state_dict[k], v) for k, v in whole.state_dict.items())


def test_rebuilt_from_its_weights_scores_the_same(tmp_path: Path) -> None:
    split, spec = toy_split(), student()
    result, scorer = fit(split, spec, seed=1, device="cpu", folder=tmp_path)
    state = {name: value.clone() for name, value in result.state_dict.items()}
    again = rebuilt(split, spec, state, 1, "cpu")
    rows = slice(0, 5)
    assert torch.equal(again.score(split.test, rows), scorer.score(split.test, rows))
    with pytest.raises(RuntimeError, match="missing or too many"):
        rebuilt(split, spec, dict(list(state.items())[1:]), 1, "cpu")


def test_weights_of_a_folder(tmp_path: Path) -> None:
    """A saved T5 with its tokenizer is loaded, gets the cluster tokens, and is trained and searched."""
    from transformers import T5Config, T5ForConditionalGeneration

    from tests.tiny_lm import byte_tokenizer

    config = T5Config(
        vocab_size=258, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    byte_tokenizer().save_pretrained(tmp_path / "t5")
    split = toy_split()
    spec = student(
        {"weights": str(tmp_path / "t5"), "indexing": "collaborative", "clusters": 2, "cluster_size": 4}
    )
    system = P5(split, P5Spec.model_validate(spec.hparams), 1, "cpu")
    assert isinstance(system.words, PretrainedWords)
    assert len(system.words.pieces("<CI0><CI1>")) == 2
    assert system.model.t5.get_input_embeddings().weight.shape[0] >= system.words.size
    result, scorer = fit(split, spec, seed=1, device="cpu", folder=tmp_path / "c")
    assert (~scorer.score(split.test, slice(0, 3)).isneginf()).sum(1).tolist() == [6, 6, 6]
    assert result.history[1]["loss"] > 0


def test_exchanged_weights_have_a_checkpoint_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    from tests.tiny_lm import byte_tokenizer

    config = T5Config(
        vocab_size=258, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    byte_tokenizer().save_pretrained(tmp_path / "t5")

    def tune(task: Any, how: Any, *, file: Path, **more: Any) -> None:
        raise InterruptedError(file.name)

    monkeypatch.setattr(p5_system, "tune", tune)
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
        with pytest.raises(InterruptedError) as name:
            fit(
                toy_split(), student({"weights": str(tmp_path / "t5")}), seed=1, device="cpu", folder=tmp_path
            )
        found.append(str(name.value))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("valid_metric", "MRR", "train.valid_metric: MRR, but P5's own loop has NDCG@10"),
        ("weight_average", 0.9, "train.weight_average: 0.9, but P5's own loop keeps no averaged weights"),
        ("softmax_precision", "bfloat16", "train.softmax_precision: bfloat16, but P5's own loop has float32"),
        ("loss", {"name": "in-batch", "log_q": True}, "train.loss: in-batch, but P5 has a loss of its own"),
        ("keep_from", 0.5, "train.keep_from: 0.5, but P5's own loop"),
    ],
)
def test_what_its_loop_does_not_read_is_refused_while_planning(key: str, value: Any, said: str) -> None:
    check(student())
    with pytest.raises(SpecError, match=said):
        check(student(train={key: value}))


def test_unknown_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="no prompt unseen:3; unseen has 1"):
        own(ask="unseen:3")
