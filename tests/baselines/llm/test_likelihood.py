"""The likelihood ranker against the formula, by whole strings read one by one."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from profiles.spec import load_teacher_spec
from recbole_kd.baselines.llm.base import Context
from recbole_kd.baselines.llm.candidates import CandidateSets
from recbole_kd.baselines.llm.likelihood import Likelihood
from recbole_kd.baselines.llm.title_scores import TitleScorer
from recbole_kd.data.types import EvalSet, Sequences
from recbole_kd.errors import SpecError
from recbole_kd.ranking import Ranks

transformers = pytest.importorskip("transformers")

TITLES = ["", "Heat", "Alien", "Aliens", "Toy Story", "A Close Shave", "M"]


class Letters:
    """A token per byte."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [2 + byte for byte in text.encode()]}


@dataclass
class Backend:
    """What the ranker asks of a local back-end."""

    model: str = "tiny"
    revision: str = "1"
    loads: int = 0
    net: object = field(default=None)

    def load(self):
        self.loads += 1
        return Letters(), self.net


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def sets():
    history = Sequences(np.array([1, 2]), np.array([0, 2, 3]), np.array([1, 4, 5]))
    items = np.array([[2, 3, 6], [1, 4, 0]])
    slots = np.array([[1.0, 2, 3], [1, 2, np.nan]])
    part = EvalSet(history, np.array([2, 2]))
    return CandidateSets("test", part, items, slots, slots, Ranks(np.array([1.0, 9]), np.array([1.0, 9])))


def ranker(tmp_path: Path, net, profiles=None, **changes):
    params = {"history": 20, "chat": False, "normalise": "tokens", "calibrate": True, "profile": "none"}
    context = Context(
        split=None, titles=TITLES, domain="movies", llm=load_teacher_spec("smollm2").writer,
        profiles=profiles or {}, seed=1, device="cpu", max_len=10, store=tmp_path / "calls.sqlite",
        sets=lambda part: sets(), retrieve=lambda part: sets(), progress=lambda done, total: None,
    )  # fmt: skip
    context.__dict__["backend"] = Backend(net=net)
    return Likelihood(params | changes, context)


@pytest.mark.parametrize("normalise", ["tokens", "none"])
@pytest.mark.parametrize("calibrate", [True, False])
def test_scores_are_the_formula(tmp_path, net, normalise, calibrate):
    made = ranker(tmp_path, net, normalise=normalise, calibrate=calibrate)
    found, given = made.rank(sets()), sets()
    whole = TitleScorer(Letters(), net, 1)
    for row in range(2):
        history = [TITLES[i] for i in given.eval_set.history.row(row)]
        prefix = whole.ids(made.text(history, None))
        for place, item in enumerate(given.items[row]):
            if item == 0:
                continue
            title = whole.ids(f" {TITLES[item]}\n")
            expected = whole.score_whole(prefix, title)
            expected -= whole.score_whole(whole.ids(made.text([], None)), title) if calibrate else 0
            expected /= len(title) if normalise == "tokens" else 1
            assert found.scores[row, place] == pytest.approx(expected, abs=1e-4)
    assert found.scores[1, 2] == -np.inf
    assert found.usage.prompt_tokens[1] == len(prefix) + sum(len(f" {TITLES[i]}\n") for i in (1, 4))


def test_what_was_computed_is_read_from_the_store(tmp_path, net):
    first = ranker(tmp_path, net).rank(sets())
    again = ranker(tmp_path, net)
    second = again.rank(sets())
    assert again.context.backend.loads == 0
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.usage.seconds, second.usage.seconds)


def test_a_profile_stands_in_the_prefix(tmp_path, net):
    given = {1: "Likes thrillers."}
    beside = ranker(tmp_path, net, given, profile="beside").rank(sets())
    instead = ranker(tmp_path, net, given, profile="instead").rank(sets())
    plain = ranker(tmp_path, net).rank(sets())
    assert (beside.scores[0] != plain.scores[0]).all()
    assert (instead.scores[0] != beside.scores[0]).all()
    # The second user has no profile and keeps the history.
    np.testing.assert_array_equal(plain.scores[1], instead.scores[1])


def test_an_endpoint_has_no_logits():
    writer = load_teacher_spec("openai").writer
    params = {"history": 20, "chat": False, "normalise": "tokens", "calibrate": True, "profile": "none"}
    with pytest.raises(SpecError, match="gives no logits"):
        Likelihood.check(params, writer)
    with pytest.raises(SpecError, match=r"params.normalise: 'bytes' is unknown"):
        Likelihood.check(params | {"normalise": "bytes"}, load_teacher_spec("smollm2").writer)
