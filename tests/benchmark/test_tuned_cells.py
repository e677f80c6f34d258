"""TALLRec, LlamaRec and P5 as cells of one experiment, with language models of random weights."""

import json

import pandas as pd
import pytest
import yaml

pytest.importorskip("peft")

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError
from recbole_kd.metrics import per_user
from tests.tiny_lm import byte_tokenizer, tiny_llama

SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "train_batch_size": 16},
}
P5 = {
    "hparams": {"d_model": 16, "d_kv": 8, "d_ff": 16, "n_layers": 1, "n_heads": 2, "history": 4, "beam": 5},
    "train": {"epochs": 1},
}
TUNE = {"epochs": 1, "batch_size": 4, "micro_batch": 4}
FRAME = {"prompt": {"frame": "{instruction}|{input}|\n", "instruction": "I"}}


def changes(folder):
    llm = {"model": str(folder), "revision": None, "device": "cpu"}
    tallrec = {"shots": 8, "valid_users": 6, "tune": TUNE, **FRAME}
    llamarec = {"candidates": 4, "examples": 8, "valid_users": 6, "tune": TUNE, **FRAME}
    return {
        "backbones": ["SASRec", "P5"],
        "seeds": [1],
        "variants": {
            "plain": {"backbones": ["SASRec"], **SMALL},
            "p5": {"backbones": ["P5"], **P5},
            "tallrec": {"ranker": "tallrec", "llm": llm, "params": tallrec},
            "llamarec": {"ranker": "llamarec", "llm": llm, "params": llamarec},
        },
        "candidates": {"retriever": {"backbone": "SASRec", "variant": "plain"}, "top": 6, "max_users": 8},
    }


@pytest.fixture
def llama(tmp_path):
    folder = tmp_path / "llama"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def run(name, results):
    with pytest.raises(SystemExit) as end:
        main(["run", name, "--results", str(results), "--workers", "0"])
    assert not end.value.code


def test_all_three_run_from_one_file(place, write_experiment, llama):
    write_experiment("tuned", changes(llama))
    results = place / "results"
    run("tuned", results)
    record = json.loads((results / "tuned" / "experiment.json").read_text())
    assert not record["failures"]
    found = {c["variant"]: results / "runs" / c["cell"] for c in record["cells"]}
    said = {name: json.loads((path / "manifest.json").read_text()) for name, path in found.items()}
    assert {said[n]["serving_needs"] for n in ("p5", "tallrec", "llamarec")} == {"language model"}
    for name in ("tallrec", "llamarec"):
        history = pd.read_parquet(found[name] / "history.parquet")
        assert history["epoch"].tolist() == [0, 1]
        part = said[name]["ranker"]["parts"]["test"]
        assert part["users"] == 8
        assert part["calls"] == (8 if name == "llamarec" else part["candidates"])
        usage = pd.read_parquet(found[name] / "usage.parquet")
        assert usage["prompt_tokens"].sum() == part["prompt_tokens"] > 0
        assert said[name]["n_parameters"] == 8 * (64 + 48) * 2
        _check_subsets(found["plain"], found[name], part)
    assert said["tallrec"]["ranker"]["parts"]["test"]["labels"] == "ratings"
    assert len(pd.read_parquet(found["p5"] / "ranks.parquet")) == 60
    # Once more: nothing is trained, nothing is written.
    stamps = {path: (path / "manifest.json").stat().st_mtime_ns for path in found.values()}
    run("tuned", results)
    assert all((path / "manifest.json").stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_tuned_models_are_timed_beside_students(place, write_experiment, llama, capsys):
    """Each asks anew: calls and tokens of the timing are those of the run for the same users."""
    given = changes(llama)
    teacher = {"extends": "template", "name": "words", "description": "no neural network"}
    teacher["encoder"] = {"kind": "tfidf", "dimension": 2}
    (place / "properties" / "profile" / "words.yaml").write_text(yaml.safe_dump(teacher))
    own = {**SMALL, "train": {**SMALL["train"], "epochs": 2}, "distill": {"distil_epochs": 1}}
    given["variants"]["kd"] = {"backbones": ["SASRec"], "teacher": "words", **own}
    given["controls"] = []
    given["candidates"]["max_users"] = 3
    write_experiment("tuned", given)
    results = place / "results"
    run("tuned", results)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["loop-latency", "tuned", "--users", "5", "--results", str(results), "--json"])
    said = capsys.readouterr()
    assert not end.value.code
    assert "not timed" not in said.err
    rows = {row["variant"]: row for row in json.loads(said.out)}
    assert set(rows) == {"plain", "kd", "p5", "tallrec", "llamarec"}
    assert {row["users"] for row in rows.values()} == {2}
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows.values())
    assert all(row["usd_per_1000"] == 0 for row in rows.values())
    assert all(rows[name]["calls_per_user"] == 0 for name in ("plain", "kd"))
    record = json.loads((results / "tuned" / "experiment.json").read_text())
    found = {c["variant"]: results / "runs" / c["cell"] for c in record["cells"]}
    for name, calls in (("tallrec", 6), ("llamarec", 1)):
        usage = pd.read_parquet(found[name] / "usage.parquet")
        # The first user warms up.
        assert rows[name]["prompt_tokens"] == pytest.approx(usage["prompt_tokens"][1:].mean())
        assert rows[name]["calls_per_user"] == calls
    # Four items of the history, names of an item to search; every word is at least one token.
    assert rows["p5"]["prompt_tokens"] > 20
    assert rows["p5"]["completion_tokens"] % P5["hparams"]["beam"] == 0 < rows["p5"]["completion_tokens"]
    from analysis.load import load_results
    from analysis.tables import candidates_table, cost_frame

    auc = json.loads((found["tallrec"] / "manifest.json").read_text())["ranker"]["parts"]["test"]["auc"]
    notes = candidates_table(load_results(results / "tuned")).notes
    assert notes == (
        ()
        if auc is None
        else (
            f"tiny SASRec tallrec: AUC {auc:.3f} on the asked users' targets (TALLRec's published measure)",
        )
    )
    frame = cost_frame(load_results(results / "tuned")).set_index("variant")
    tokens = rows["p5"]["prompt_tokens"] + rows["p5"]["completion_tokens"]
    assert frame.loc["p5", "tokens_per_user"] == tokens
    assert pd.isna(frame.loc["kd", "tokens_per_user"])
    assert (frame["p50_ms"] > 0).all()


def _check_subsets(plain, path, part):
    """Missed users keep the retriever's rank; the two subsets are means over the rank files."""
    table = pd.read_parquet(path / "ranks.parquet").set_index("user")
    before = pd.read_parquet(plain / "ranks.parquet")
    before = before[before["split"] == "test"].set_index("user").loc[table.index]
    candidates = pd.read_parquet(path / "candidates.parquet")
    held = candidates.groupby("user", observed=True)["item"].agg(set)
    hit = pd.Series({user: str(table["item"][user]) in held[user] for user in table.index})
    assert (table["rank"][~hit] == before["rank"][~hit]).all()
    assert (table["rank"][hit] <= 6).all()
    assert part["missed"] == (~hit).sum()
    if hit.any():
        for when, ranks in (("retriever", before), ("re-ranked", table)):
            expected = float(per_user(ranks["rank"][hit].to_numpy(), "NDCG@10").mean())
            assert part["found"][when]["NDCG@10"] == pytest.approx(expected, abs=1e-6)


def test_p5_retrieves_for_others(place, write_experiment):
    given = {
        "backbones": ["P5"],
        "seeds": [1],
        "variants": {"p5": P5, "re": {"ranker": "retriever"}},
        "baseline": "p5",
        "candidates": {"retriever": {"backbone": "P5", "variant": "p5"}, "top": 5},
    }
    write_experiment("retrieving", given)
    run("retrieving", place / "results")
    record = json.loads((place / "results" / "retrieving" / "experiment.json").read_text())
    found = {c["variant"]: place / "results" / "runs" / c["cell"] for c in record["cells"]}
    tables = [pd.read_parquet(found[name] / "ranks.parquet") for name in ("p5", "re")]
    tables = [t[t["split"] == "test"].drop(columns="split").reset_index(drop=True) for t in tables]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("variant", "params", "said"),
    [
        ("tallrec", {"shot": 3}, "params key 'shot'; did you mean 'shots'"),
        ("tallrec", {"tune": {"epoch": 3}}, "did you mean 'epochs'"),
        ("tallrec", {"labels": "stars"}, "labels"),
        ("llamarec", {"candidates": 40}, "less than or equal to 26"),
    ],
)
def test_a_slip_in_params_names_the_mend(write_experiment, llama, variant, params, said):
    given = changes(llama)
    given["variants"][variant]["params"] = params
    with pytest.raises(SpecError) as error:
        load_experiment(write_experiment("slip", given))
    assert said in str(error.value)


def test_a_model_behind_an_endpoint_cannot_be_tuned(write_experiment, llama):
    given = changes(llama)
    given["variants"]["tallrec"]["llm"] = {"profile": "vllm"}
    with pytest.raises(SpecError, match="need a model of backend 'local'"):
        load_experiment(write_experiment("slip", given))


def test_p5_slips(place, write_experiment, capsys):
    given = {"backbones": ["P5"], "variants": {"plain": {"hparams": {"ask": "unseen:7"}}}, "seeds": [1]}
    write_experiment("slip", given)
    with pytest.raises(SystemExit) as end:
        main(["run", "slip", "--results", str(place / "results"), "--workers", "0"])
    assert end.value.code == 2
    assert "there is no prompt unseen:7" in capsys.readouterr().err
