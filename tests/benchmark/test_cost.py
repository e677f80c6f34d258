"""What a manifest says a run cost, and how the tables show it."""

import json

import pytest

from recbole_kd.benchmark.cost import run_cost
from recbole_kd.benchmark.resolve import load_experiment

WRITER = {"calls": 40, "prompt_tokens": 4000, "completion_tokens": 900, "seconds": 12.5, "price_usd": 0.25}
SPENT = {
    "llm_calls": 40.0,
    "llm_prompt_tokens": 4000.0,
    "llm_completion_tokens": 900.0,
    "llm_seconds": 12.5,
}


@pytest.fixture
def cells(place, write_experiment):
    """One cell of every kind of teacher, by variant."""
    (place / "e.npz").write_bytes(b"vectors")
    taught = {name: {"teacher": name} for name in ("template", "openai", "smollm2", "shuffled")}
    file = {"embeddings": str(place / "e.npz"), "trust_unverified": True}
    variants = {"plain": {}, **taught, "file": file}
    write_experiment("kinds", {"variants": variants, "controls": "none", "seeds": [1]})
    return {c.label.variant: c.spec for c in load_experiment("kinds").cells}


def test_the_cost_of_a_run_is_that_of_its_teacher_s_texts_and_its_training(cells):
    seconds = {"train": 3.25, "valid": 1.0}
    nothing = dict.fromkeys((*SPENT, "llm_usd"), 0.0)
    for variant in ("plain", "template"):
        assert run_cost(cells[variant], {"writer": WRITER}, seconds) == {"train_seconds": 3.25, **nothing}
    api = run_cost(cells["openai"], {"writer": WRITER}, seconds)
    assert api == {"train_seconds": 3.25, **SPENT, "llm_usd": 0.25}
    # No price for the tokens: those of local weights cost nothing, those of an endpoint are unknown.
    unpriced = {"writer": {**WRITER, "price_usd": None}}
    assert run_cost(cells["smollm2"], unpriced, seconds)["llm_usd"] == 0.0
    assert run_cost(cells["shuffled"], unpriced, seconds)["llm_calls"] == 40.0
    assert "llm_usd" not in run_cost(cells["openai"], unpriced, seconds)


def test_profiles_that_are_read_when_serving_are_counted_apart(write_experiment):
    def cell(teacher):
        ranker = {"ranker": "likelihood", "params": {"profile": "beside"}, "inputs": {"teacher": teacher}}
        given = {"variants": {"plain": {}, "reads": ranker}, "seeds": [1], "controls": "none"}
        given["candidates"] = {"retriever": {"backbone": "SASRec", "variant": "plain"}}
        write_experiment("reads", given)
        return load_experiment("reads").cells[-1].spec

    read = {"writer": {**WRITER, "price_usd": None}, "n_users": 20}
    found = run_cost(cell("smollm2"), None, {}, read)
    assert {k: v for k, v in found.items() if k.startswith("llm_")} == dict.fromkeys((*SPENT, "llm_usd"), 0.0)
    expected = {name.replace("llm_", "read_"): value for name, value in SPENT.items()}
    assert {k: v for k, v in found.items() if k.startswith("read_")} == {
        **expected,
        "read_usd": 0.0,
        "read_users": 20.0,
    }
    # A template costs nothing; an endpoint without a price is not free.
    assert run_cost(cell("template"), None, {}, read)["read_calls"] == 0
    assert "read_usd" not in run_cost(cell("openai"), None, {}, read)


def test_a_file_of_vectors_that_tells_nothing_has_no_cost(cells):
    assert run_cost(cells["file"], {"writer": None}, {"train": 2.0}) == {"train_seconds": 2.0}
    assert run_cost(cells["file"], None, {}) == {}
    assert run_cost(cells["file"], {"writer": WRITER}, {})["llm_usd"] == 0.25


def test_a_real_run_says_its_cost_and_the_table_shows_it(place, write_experiment):
    from analysis.load import load_results
    from analysis.tables import cost_table
    from recbole_kd.benchmark.artefacts import build
    from recbole_kd.benchmark.console import JsonReporter
    from recbole_kd.benchmark.engines import SerialEngine
    from recbole_kd.benchmark.sweep import run_sweep

    write_experiment("small", {"variants": {"plain": SMALL}, "seeds": [1]})
    run_sweep(
        load_experiment("small"),
        place / "r",
        SerialEngine(),
        JsonReporter(),
        device="cpu",
        build=build,
        figures=False,
    )
    (path,) = (place / "r").glob("runs/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["cost"]["train_seconds"] == pytest.approx(manifest["seconds"]["train"], abs=1e-3)
    assert manifest["cost"]["llm_usd"] == 0
    assert manifest["peak_gpu_memory_mb"] is None
    table = cost_table(load_results(place / "r" / "small"))
    names = [c.name for c in table.columns]
    assert {"llm usd", "llm prompt tokens", "llm seconds"} <= set(names)
    assert len(names) == len(set(names))
    assert "once for all runs that share them" in table.caption
    md = (place / "r" / "small" / "table.md").read_text()
    assert manifest["dataset_digest"] in md
    assert "small: protocol" in md


SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "stopping_step": 1, "train_batch_size": 16},
}
