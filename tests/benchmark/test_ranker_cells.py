"""Rankers as cells of an experiment: names, addresses, order, files."""

import json

import numpy as np
import pandas as pd
import pytest

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError

SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "train_batch_size": 16},
}
CANDIDATES = {"retriever": {"backbone": "SASRec", "variant": "plain"}, "top": 5}


def run(name, results, *options, ok=True):
    with pytest.raises(SystemExit) as end:
        main(["run", name, "--results", str(results), "--workers", "0", *options])
    assert bool(end.value.code) != ok


def runs_of(results, name):
    record = json.loads((results / name / "experiment.json").read_text())
    return {(c["backbone"], c["variant"], c["seed"]): results / "runs" / c["cell"] for c in record["cells"]}


def ranks(path, part="test"):
    table = pd.read_parquet(path / "ranks.parquet")
    return table[table["split"] == part].drop(columns="split").set_index("user")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": {}}, "add 'candidates: {retriever"),
        ({"variants": {"plain": {}, "re": {"ranker": "retriver"}}}, "no ranker 'retriver'; did you mean"),
        ({"variants": {"plain": {}, "re": {"ranker": "retriever", "params": {"a": 1}}}}, "params key 'a'"),
        ({"variants": {"plain": {}, "re": {"ranker": "retriever", "llm": {}}}}, "asks no language model"),
        ({"variants": {"plain": {}, "re": {"ranker": "retriever", "teacher": "template"}}}, "not 'teacher'"),
        ({"variants": {"plain": {}, "re": {"llm": {"model": "x"}}}}, "no 'ranker' is named"),
        ({"candidates": {"retriever": {"backbone": "SASRec", "variant": "pain"}}}, "no variant 'pain'"),
        ({"candidates": {"retriever": {"backbone": "Pop", "variant": "plain"}}}, "'Pop' is not among"),
        ({"candidates": {**CANDIDATES, "tops": 3}}, "unknown key 'candidates.tops'; did you mean 'top'"),
        ({"candidates": {**CANDIDATES, "parts": ["valid"]}}, "must name 'test'"),
    ],
)
def test_a_slip_names_the_mend(write_experiment, changes, said):
    base = {"candidates": CANDIDATES, "variants": {"plain": {}, "re": {"ranker": "retriever"}}}
    with pytest.raises(SpecError) as error:
        load_experiment(write_experiment("wrong", base | changes))
    assert said in str(error.value)


def test_ranker_cells_follow_their_retriever_and_change_no_other_address(write_experiment):
    plain = {"variants": {"plain": SMALL}, "seeds": [1, 2]}
    before = [c.cell for c in load_experiment(write_experiment("before", plain)).cells]
    both = plain | {"candidates": CANDIDATES, "variants": {"plain": SMALL, "re": {"ranker": "retriever"}}}
    cells = load_experiment(write_experiment("after", both)).cells
    assert [c.cell for c in cells[:2]] == before
    assert [(c.label.variant, c.label.seed, c.spec.ranker["retriever"]) for c in cells[2:]] == [
        ("re", 1, before[0]),
        ("re", 2, before[1]),
    ]
    other = both | {"candidates": {**CANDIDATES, "top": 6}}
    assert {c.cell for c in load_experiment(write_experiment("other", other)).cells} & {
        c.cell for c in cells
    } == set(before)


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec", "Pop", "ItemKNN", "BPR"])
def test_the_retrievers_order_gives_the_retrievers_ranks(place, write_experiment, backbone):
    own = {} if backbone in ("Pop", "ItemKNN") else SMALL
    if backbone == "BPR":
        own = {"train": {"epochs": 1}}
    given = {
        "backbones": [backbone],
        "seeds": [1],
        "variants": {"plain": own, "re": {"ranker": "retriever"}},
        "candidates": {"retriever": {"backbone": backbone, "variant": "plain"}, "top": 5},
    }
    results = place / "results"
    write_experiment("same", given | {"candidates": given["candidates"] | {"parts": ["valid", "test"]}})
    run("same", results)
    found = runs_of(results, "same")
    for part in ("valid", "test"):
        before, after = (ranks(found[backbone, name, 1], part) for name in ("plain", "re"))
        pd.testing.assert_frame_equal(before, after)
    manifest = json.loads((found[backbone, "re", 1] / "manifest.json").read_text())
    said = manifest["ranker"]["parts"]["test"]
    assert said["users"] == len(after)
    assert said["calls"] == 0
    assert said["missed"] == int((~candidates_hit(found[backbone, "re", 1])).sum())
    assert manifest["protocol"]["re-ranked"] == "top 5 of the retriever"


def candidates_hit(path):
    """Whether each test user's target is among the candidates, from the files of the run alone."""
    table = pd.read_parquet(path / "candidates.parquet")
    table = table[table["split"] == "test"]
    held = table.groupby("user", observed=True)["item"].agg(set)
    targets = ranks(path)["item"].astype(str)
    return np.array([targets[user] in held[user] for user in targets.index])


def test_only_sampled_users_are_ranked_and_the_retriever_comes_along(place, write_experiment):
    write_experiment(
        "few",
        {
            "seeds": [1],
            "variants": {"plain": SMALL, "re": {"ranker": "retriever"}},
            "candidates": {**CANDIDATES, "max_users": 7},
        },
    )
    results = place / "results"
    run("few", results, "--only", "variant=re")
    found = runs_of(results, "few")
    before, after = (ranks(found["SASRec", name, 1]) for name in ("plain", "re"))
    assert len(after) == 7
    pd.testing.assert_frame_equal(before.loc[after.index], after)
    table = pd.read_parquet(found["SASRec", "re", 1] / "ranks.parquet")
    assert set(table["split"]) == {"test"}
    # The same command finds everything and changes nothing.
    stamp = (found["SASRec", "re", 1] / "manifest.json").stat().st_mtime_ns
    run("few", results)
    assert (found["SASRec", "re", 1] / "manifest.json").stat().st_mtime_ns == stamp


def test_a_ranker_takes_the_tuned_retriever_and_is_not_tuned_itself(place, write_experiment, monkeypatch):
    from recbole_kd.benchmark import tuning

    given = {"variants": {"plain": SMALL, "re": {"ranker": "retriever"}}, "candidates": CANDIDATES}
    loaded = load_experiment(write_experiment("tuned", given | {"seeds": [1, 2]}))
    asked = []

    def best(results, name, methods):
        asked.extend(methods)
        return {method: {"train.learning_rate": 0.5} for method in methods}

    monkeypatch.setattr(tuning, "best_points", best)
    cells = tuning.tuned(loaded, place / "results", keep=False).cells
    assert asked == [("tiny", "SASRec", "plain")]
    retrievers = {c.label.seed: c.cell for c in cells if c.label.variant == "plain"}
    rankers = [c for c in cells if c.label.variant == "re"]
    assert {c.label.seed: c.spec.ranker["retriever"] for c in rankers} == retrievers
    assert not {c.cell for c in cells} & {c.cell for c in loaded.cells}
