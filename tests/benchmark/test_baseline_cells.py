"""Systems and closed forms as cells of an experiment: names, addresses, files, manifests."""

import json

import pytest
import torch
import yaml

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError

SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "train_batch_size": 16},
}
GATE = {**SMALL, "system": "text-gate", "inputs": {"items": "words"}}


@pytest.fixture
def words(place):
    """Item vectors that need no neural network."""
    folder = place / "properties" / "items"
    folder.mkdir()
    spec = {"extends": "tfidf", "name": "words", "description": "two dimensions", "encoder": {"dimension": 2}}
    (folder / "words.yaml").write_text(yaml.safe_dump(spec))
    return folder / "words.yaml"


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({"system": "text-gat"}, "no system 'text-gat'; did you mean 'text-gate'"),
        ({"system": "text-gate", "params": {"gate": 1}}, "unknown text-gate params key 'gate'"),
        ({"params": {"gate_bias": 1.0}}, "'params' belong to a 'system'"),
        ({"inputs": {"items": "minilm"}}, "neither model nor system reads any"),
        ({"system": "text-gate", "inputs": {"items": "minlm"}}, "no items 'minlm'; did you mean 'minilm'"),
        ({"system": "text-gate", "inputs": {"teacher": "template"}}, "inputs.teacher must be left out"),
    ],
)
def test_a_slip_names_the_mend(write_experiment, variant, said):
    path = write_experiment("wrong", {"variants": {"plain": SMALL, "odd": variant}})
    with pytest.raises(SpecError, match=said.replace("?", "[?]")):
        load_experiment(path)


def test_a_system_is_for_its_backbones_and_changes_no_plain_address(write_experiment):
    plain = {"variants": {"plain": SMALL}, "seeds": [1], "backbones": ["SASRec"]}
    before = load_experiment(write_experiment("before", plain)).cells
    both = {**plain, "variants": {"plain": SMALL, "gate": {**SMALL, "system": "text-gate"}}}
    after = load_experiment(write_experiment("after", both)).cells
    assert [c.cell for c in before] == [c.cell for c in after if c.label.variant == "plain"]
    listed = load_experiment(
        write_experiment(
            "mixed",
            {
                "variants": {"plain": {}, "uni": {"system": "unisrec"}},
                "seeds": [1],
                "backbones": ["BERT4Rec", "Pop"],
            },
        )
    ).cells
    assert [(c.label.backbone, c.label.variant) for c in listed] == [("BERT4Rec", "plain"), ("Pop", "plain")]


def test_item_texts_are_part_of_the_address_only_where_they_are_read(place, write_experiment, words):
    path = write_experiment("texts", {"variants": {"plain": SMALL, "gate": GATE}, "seeds": [1]})
    before = {c.label.variant: c.cell for c in load_experiment(path).cells}
    item = place / "data" / "tiny" / "tiny.item"
    item.write_text(item.read_text().replace("Drama", "Western"))
    after = {c.label.variant: c.cell for c in load_experiment(path).cells}
    assert before["plain"] == after["plain"]
    assert before["gate"] != after["gate"]


def test_cells_run_and_say_what_they_need(place, write_experiment, words):
    variants = {"plain": {}, "gate": {**GATE, "backbones": ["SASRec"]}}
    overrides = [{"where": {"backbone": "SASRec"}, **SMALL}]
    write_experiment(
        "few", {"variants": variants, "backbones": ["SASRec", "EASE"], "seeds": [1], "overrides": overrides}
    )
    results = place / "results"
    with pytest.raises(SystemExit) as end:
        main(["run", "few", "--results", str(results), "--workers", "0"])
    assert not end.value.code
    record = json.loads((results / "few" / "experiment.json").read_text())
    found = {}
    for cell in record["cells"]:
        manifest = json.loads((results / "runs" / cell["cell"] / "manifest.json").read_text())
        found[cell["backbone"], cell["variant"]] = manifest
    assert set(found) == {("SASRec", "plain"), ("SASRec", "gate"), ("EASE", "plain")}
    gate, ease = found["SASRec", "gate"], found["EASE", "plain"]
    assert gate["system"] == "text-gate"
    assert gate["inputs"]["items"]["dimension"] == 2
    assert gate["n_parameters"] > found["SASRec", "plain"]["n_parameters"]
    assert ease["protocol"]["loss"] == "closed form"
    assert {m["serving_needs"] for m in found.values()} == {"nothing"}
    assert len(list((results / "cache" / "items").glob("*.parquet"))) == 1


@pytest.mark.parametrize("native", [True, False])
def test_the_softmax_s_precision_is_told_where_there_is_a_softmax(
    place, write_experiment, monkeypatch, native
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    own = {"backbones": ["SASRec"]}
    gbce = {"name": "gbce", "negatives": 4, "calibration": 0.5}
    variants = {
        "plain": {},
        "exact": {**own, "train": {"softmax_precision": "float32"}},
        "sampled": {**own, "train": {"loss": gbce}},
    }
    few = {"train": {"epochs": 1, "train_batch_size": 16}}
    overrides = [{"where": {"backbone": "SASRec"}, **SMALL}, {"where": {"backbone": "BPR"}, **few}]
    backbones = ["SASRec", "EASE", "BPR"]
    write_experiment(
        "few", {"variants": variants, "backbones": backbones, "seeds": [1], "overrides": overrides}
    )
    results = place / "results"
    with pytest.raises(SystemExit) as end:
        main(["run", "few", "--results", str(results), "--workers", "0"])
    assert not end.value.code
    found = {}
    for cell in json.loads((results / "few" / "experiment.json").read_text())["cells"]:
        manifest = json.loads((results / "runs" / cell["cell"] / "manifest.json").read_text())
        found[cell["backbone"], cell["variant"]] = manifest["execution"].get("softmax_precision")
    assert found == {
        ("SASRec", "plain"): "bfloat16" if native else "float32",
        ("SASRec", "exact"): "float32",
        ("SASRec", "sampled"): None,
        ("EASE", "plain"): None,
        ("BPR", "plain"): None,
    }


def test_from_where_patience_counts_is_in_the_manifest():
    """Of quickstart: SASRec is distilled for six epochs; BERT4Rec's rate ends its runs, no patience does."""
    from recbole_kd.benchmark.run_record import _patience_from

    found = {
        (c.label.backbone, c.label.variant): _patience_from(c.spec)
        for c in load_experiment("quickstart").cells
    }
    assert {key: found[key] for key in found if key[1] in ("plain", "kd-smollm2")} == {
        ("SASRec", "plain"): 0,
        ("SASRec", "kd-smollm2"): 6,
        ("GRU4Rec", "plain"): 0,
        ("GRU4Rec", "kd-smollm2"): 6,
        ("BERT4Rec", "plain"): 0,
        ("BERT4Rec", "kd-smollm2"): 0,
    }
