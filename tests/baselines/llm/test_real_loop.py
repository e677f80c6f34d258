"""The zero-shot re-ranker against a real OpenAI-compatible server that serves SmolLM2."""

import numpy as np
import pytest

from profiles.spec import WriterSpec, load_teacher_mapping
from recbole_kd.baselines.llm.base import Context
from recbole_kd.baselines.llm.candidates import CandidateSets
from recbole_kd.baselines.llm.llmrank import LLMRank
from recbole_kd.data.types import EvalSet
from recbole_kd.ranking import Ranks
from tests.profiles.conftest import GENRES, smollm2_cache, split  # noqa: F401 - fixtures
from tests.profiles.test_real_server import folder, server  # noqa: F401 - fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARAMS = {
    "prompt": "sequential", "answer": "titles", "history": 10, "bootstrap": 2, "shown": "shuffled",
    "shuffle_seed": 0, "threshold": 0.9, "profile": "none",
}  # fmt: skip


def ranker(url, model, given, store):
    raw = load_teacher_mapping("openai")["writer"] | {"model": str(model), "revision": "test"}
    raw["decoding"] = raw["decoding"] | {"max_new_tokens": 48, "temperature": 0.0}
    raw["api"] = raw["api"] | {"base_url": url, "key_variable": "NO_KEY", "concurrency": 2, "attempts": 1}
    raw["api"] |= {"timeout": 300.0}
    titles = ["", *(title for title, *_ in GENRES.values())]
    context = Context(
        split=given, titles=titles, domain="movies", llm=WriterSpec.model_validate(raw), profiles={}, seed=1,
        device="cpu", max_len=10, store=store, sets=lambda part: None, retrieve=lambda part: None,
        progress=lambda done, total: None,
    )  # fmt: skip
    return LLMRank(PARAMS, context)


def candidates(given):
    draw, n = np.random.default_rng(0), len(given.test)
    items = np.stack([draw.permutation(np.arange(1, 15))[:5] for _ in range(n)])
    slots = np.tile(np.arange(1.0, 6), (n, 1))
    ones = np.ones(n, np.float32)
    part = EvalSet(given.test.history, given.test.targets)
    return CandidateSets("test", part, items, slots, slots, Ranks(ones, ones)).take(np.arange(3))


def test_a_real_server_ranks_and_its_answers_are_bought_once(server, folder, split, tmp_path):  # noqa: F811
    sets = candidates(split)
    store = tmp_path / "calls.sqlite"
    first = ranker(server, folder, split, store).rank(sets)
    assert first.usage.calls.tolist() == [2, 2, 2]
    assert (first.usage.prompt_tokens > 100).all()
    assert (first.usage.completion_tokens > 0).all()
    assert (first.usage.seconds > 0).all()
    assert np.isfinite(first.scores).all()
    # Nobody answers at this address: everything comes from the store.
    again = ranker("http://127.0.0.1:9/v1", folder, split, store).rank(sets)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.usage.prompt_tokens, again.usage.prompt_tokens)
