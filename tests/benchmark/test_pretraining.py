"""Pre-training as an artefact: addresses, one builder, what it may see, what the protocol says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from recbole_kd.benchmark import artefacts, pretraining
from recbole_kd.benchmark.executor import CellTask, run_cell
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.tuning import with_point
from recbole_kd.errors import SpecError
from tests.benchmark.conftest import write_dataset

SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "train_batch_size": 16},
    "system": "unisrec",
    "params": {"n_experts": 2},
}


@pytest.fixture
def quick_encoder(monkeypatch):
    """Vectors of the words of a text, in one space for all texts, without a neural network."""

    def word(text):
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        return np.random.default_rng(seed).normal(size=6)

    def encode(texts, spec, progress=None):
        return np.array([np.sum([word(w) for w in text.split()], axis=0) for text in texts], np.float32)

    monkeypatch.setattr("profiles.encode.hf.encode", encode)


@pytest.fixture
def second(place):
    """Another dataset beside ``tiny``."""
    write_dataset(place / "data" / "other", "other", users=20, items=25)
    spec = yaml.safe_load((place / "properties" / "dataset" / "tiny.yaml").read_text())
    spec |= {"name": "other", "path": "other"}
    (place / "properties" / "dataset" / "other.yaml").write_text(yaml.safe_dump(spec))


def variant(**pretrain):
    return {**SMALL, "pretrain": {"epochs": 2, **pretrain}}


@pytest.mark.parametrize(
    ("pretrain", "said"),
    [
        ({"dataset": ["self"]}, "unknown pretrain key 'dataset'; did you mean 'datasets'"),
        ({"args": {"item_drp": 0.1}}, "unknown pretrain args key 'item_drp'; did you mean 'item_drop'"),
        ({"datasets": ["self", "tinny"]}, "no dataset 'tinny'; did you mean 'tiny'"),
    ],
)
def test_a_slip_names_the_mend(write_experiment, pretrain, said):
    path = write_experiment("wrong", {"variants": {"plain": {}, "uni": variant(**pretrain)}})
    with pytest.raises(SpecError, match=said.replace("?", "[?]")):
        load_experiment(path)


def test_pretraining_belongs_to_those_that_know_it(write_experiment, place):
    odd = {"system": "text-gate", "pretrain": {"epochs": 3}}
    with pytest.raises(SpecError, match="neither model nor system is pre-trained"):
        load_experiment(write_experiment("odd", {"variants": {"plain": {}, "odd": odd}}))
    fitted = {**variant(), "inputs": {"items": "tfidf"}}
    with pytest.raises(SpecError, match="fitted on the texts at hand"):
        load_experiment(write_experiment("fitted", {"variants": {"plain": {}, "odd": fitted}}))


def test_overrides_are_laid_under_the_variants_own_values(write_experiment):
    over = [
        {"where": {"variant": "uni"}, "pretrain": {"epochs": 5, "batch_size": 7}},
        {"where": {"variant": "own"}, "pretrain": {"epochs": 5}},
        {"where": {}, "pretrain": {"learning_rate": 0.25}},
    ]
    uni = {**SMALL, "pretrain": {"args": {"item_drop": 0.5}}}
    changes = {"variants": {"plain": {}, "uni": uni, "own": variant()}, "seeds": [1], "overrides": over}
    cells = load_experiment(write_experiment("laid", changes)).cells
    found = {c.label.variant: (c.spec.inputs or {}).get("pretrain") for c in cells}
    keys = ("epochs", "batch_size", "learning_rate")
    assert found["plain"] is None  # nothing is pre-trained there, so that nothing is laid on
    assert [found["uni"]["spec"][k] for k in keys] == [5, 7, 0.25]
    assert found["uni"]["spec"]["args"]["item_drop"] == 0.5
    assert [found["own"]["spec"][k] for k in keys if k != "batch_size"] == [2, 0.25]
    over[0]["pretrain"] = {"epoch": 1}
    slip = write_experiment("laid", {**changes, "overrides": over})
    with pytest.raises(SpecError, match="unknown pretrain key 'epoch'; did you mean 'epochs'"):
        load_experiment(slip)


def addresses(write_experiment, **variants):
    path = write_experiment("few", {"variants": {"plain": {}, **variants}, "seeds": [1]})
    return {c.label.variant: c for c in load_experiment(path).cells}


def test_what_it_was_trained_on_is_part_of_the_address(place, write_experiment, second):
    listed = {"none": {"datasets": []}, "own": {}, "both": {"datasets": ["self", "other"]}}
    listed["named"] = {"datasets": ["tiny"]}
    variants = {name: variant(**given) for name, given in listed.items()}
    before = {k: c.cell for k, c in addresses(write_experiment, **variants).items()}
    assert before["own"] == before["named"]
    assert len(set(before.values())) == 4
    inter = place / "data" / "other" / "other.inter"
    inter.write_text(inter.read_text() + "u1\ti1\t3\t9999\n")
    after = {k: c.cell for k, c in addresses(write_experiment, **variants).items()}
    assert [k for k in after if after[k] != before[k]] == ["both"]


def build(results, cells):
    cell = next(c for c in cells.values() if c.label.variant == "uni")
    files = artefacts.build(results, [cell])[cell.cell]
    return cell, files, load_file(files.inputs["pretrain"])


def test_two_datasets_are_trained_on_once_and_the_protocol_says_so(
    place, write_experiment, second, quick_encoder
):
    uni = variant(datasets=["self", "other"])
    path = write_experiment("both", {"variants": {"uni": uni}, "baseline": "uni", "seeds": [1, 2]})
    cells, results = load_experiment(path).cells, place / "results"
    files = artefacts.build(results, cells)
    made = {files[c.cell].inputs["pretrain"] for c in cells}
    assert len(made) == 1
    (made,) = map(Path, made)
    stamp = made.stat().st_mtime_ns
    assert artefacts.build(results, cells) == files
    assert made.stat().st_mtime_ns == stamp
    assert [p.name for p in made.parent.iterdir()] == [made.name]  # no checkpoint is left
    cell = cells[0]
    task = CellTask.build(results, cell.cell, cell.label, cell.spec, files[cell.cell], "cpu", ("NDCG@10",))
    outcome = run_cell(task)
    assert outcome.error is None
    manifest = json.loads((results / "runs" / cell.cell / "manifest.json").read_text())
    assert manifest["protocol"]["pretraining"] == "train part of tiny, other, 2 epochs"
    assert manifest["inputs"]["pretrain"]["datasets"] == ["tiny", "other"]


def test_without_pretraining_the_protocol_says_none(place, write_experiment, quick_encoder):
    uni = variant(datasets=[])
    path = write_experiment("bare", {"variants": {"uni": uni}, "baseline": "uni", "seeds": [1]})
    (cell,) = load_experiment(path).cells
    files = artefacts.build(place / "results", [cell])[cell.cell]
    assert set(files.inputs) == {"items"}
    task = CellTask.build(place / "results", cell.cell, cell.label, cell.spec, files, "cpu", ("NDCG@10",))
    assert run_cell(task).error is None
    manifest = json.loads((place / "results" / "runs" / cell.cell / "manifest.json").read_text())
    assert manifest["protocol"]["pretraining"] == "none"


def fix_ids(file: Path) -> None:
    """Let the first user have had every item, so that ids, given by first appearance, stay as they are."""
    head, *lines = file.read_text().splitlines()
    items = list(dict.fromkeys(line.split("\t")[1] for line in lines))
    first = [f"first\t{item}\t3\t{second}" for second, item in enumerate(items)]
    file.write_text("\n".join([head, *first, *lines]) + "\n")


def changed_tail(file: Path, which: int) -> None:
    """Give every user but the first another item as the ``which``-th interaction from the end."""
    head, *lines = file.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    for user in {row[0] for row in rows} - {"first"}:
        own = [row for row in rows if row[0] == user]
        taken = {row[1] for row in own}
        own[-which][1] = next(f"i{k}" for k in range(1, 26) if f"i{k}" not in taken)
    file.write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n")


@pytest.mark.parametrize("which", [1, 2, 3])
def test_only_the_train_part_is_seen(place, write_experiment, quick_encoder, second, which):
    """Other validation and test items in both datasets: the same parameters, bit for bit."""
    uni = variant(datasets=["self", "other"])
    for name in ("tiny", "other"):
        fix_ids(place / "data" / name / f"{name}.inter")
    before = build(place / "a", addresses(write_experiment, uni=uni))
    for name in ("tiny", "other"):
        changed_tail(place / "data" / name / f"{name}.inter", which)
    after = build(place / "b", addresses(write_experiment, uni=uni))
    assert after[0].cell != before[0].cell
    same = [torch.equal(after[2][name], before[2][name]) for name in before[2]]
    assert all(same) if which < 3 else not any(same)


def words_of(folder: Path) -> list[str]:
    """Words of the tiny datasets, for a tiny encoder."""
    lines = (folder / "tiny" / "tiny.item").read_text().split()
    return [word.strip(",.") for word in lines] + ["genre", "title"]


def recformer(place):
    """Recformer with an encoder of a few thousand parameters."""
    from tests.baselines.encoders import write_encoder

    source = write_encoder(place / "encoder", words_of(place / "data"))
    small = {"encoder": source, "layers": 1, "max_items": 3, "train_words": True}
    return {"hparams": small, "train": {"epochs": 2}, "pretrain": {"epochs": 2}}


def test_recformer_runs_from_words_alone(place, write_experiment, second):
    given = recformer(place)
    given["pretrain"] |= {"datasets": ["self", "other"]}
    none = {**given, "pretrain": {"datasets": []}}
    changes = {"variants": {"plain": given, "none": none}, "backbones": ["Recformer"], "seeds": [1]}
    cells = load_experiment(write_experiment("words", changes)).cells
    results = place / "results"
    files = artefacts.build(results, cells)
    said = []
    for cell in cells:
        task = CellTask.build(
            results, cell.cell, cell.label, cell.spec, files[cell.cell], "cpu", ("NDCG@10",)
        )
        assert run_cell(task).error is None
        manifest = json.loads((results / "runs" / cell.cell / "manifest.json").read_text())
        said.append(manifest["protocol"]["pretraining"])
        assert manifest["inputs"]["attributes"]["encoder"]
        assert manifest["serving_needs"] == "language encoder"
    assert said == ["train part of tiny, other, 2 epochs", "none"]
    attributes = json.loads(Path(files[cells[0].cell].inputs["attributes"]).read_text())["items"]
    assert attributes["i4"] == [["title", "Title 4"], ["genre", "Comedy"]]


@pytest.mark.parametrize("which", [1, 2, 3])
def test_recformer_sees_only_the_train_part(place, write_experiment, second, which):
    given = recformer(place)
    given["pretrain"] |= {"datasets": ["self", "other"]}
    changes = {"variants": {"uni": given}, "baseline": "uni", "backbones": ["Recformer"], "seeds": [1]}
    found = []
    for name in ("tiny", "other"):
        fix_ids(place / "data" / name / f"{name}.inter")
    for results in ("a", "b"):
        (cell,) = load_experiment(write_experiment("words", changes)).cells
        found.append(build(place / results, {"uni": cell})[2])
        for name in ("tiny", "other"):
            changed_tail(place / "data" / name / f"{name}.inter", which)
    same = [torch.equal(found[0][name], found[1][name]) for name in found[0]]
    assert all(same) if which < 3 else not all(same)


def test_an_encoder_that_is_not_there_is_named(place, write_experiment):
    given = {**recformer(place), "pretrain": {"datasets": []}}
    given["hparams"] = {**given["hparams"], "encoder": "./nowhere"}
    changes = {"variants": {"plain": given}, "backbones": ["Recformer"], "seeds": [1]}
    said = r"words\.yaml:\d+.*hparams.encoder: model './nowhere': no such file or folder"
    with pytest.raises(SpecError, match=said):
        load_experiment(write_experiment("words", changes))


def test_weights_that_a_model_reads_by_itself_are_part_of_the_address(place, write_experiment):
    given = recformer(place)
    changes = {"variants": {"plain": given}, "backbones": ["Recformer"], "seeds": [1]}
    path = write_experiment("words", changes)
    before = load_experiment(path).cells[0]
    assert list(before.spec.student_source) == ["encoder weights"]
    weights = place / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    after = load_experiment(path).cells[0]
    assert after.cell != before.cell
    assert pretraining._key(after.spec, "Recformer") != pretraining._key(before.spec, "Recformer")


def test_two_encoders_in_one_experiment_are_two(place, write_experiment):
    """The items are the same; what reads them is named by the student."""
    from tests.baselines.encoders import write_encoder

    given = {**recformer(place), "pretrain": {"datasets": []}}
    other = write_encoder(place / "other-encoder", words_of(place / "data"))
    second = {**given, "hparams": {**given["hparams"], "encoder": other}}
    changes = {"variants": {"one": given, "two": second}, "baseline": "one", "backbones": ["Recformer"]}
    cells = load_experiment(write_experiment("words", {**changes, "seeds": [1]})).cells
    files = artefacts.build(place / "results", cells)
    read = [files[c.cell].inputs["language"] for c in cells]
    assert [Path(folder).name for folder in read] == ["encoder", "other-encoder"]


def test_a_trial_is_pre_trained_with_its_own_hyper_parameters(place, write_experiment, quick_encoder):
    cell = addresses(write_experiment, uni=variant())["uni"]
    trials = [with_point(cell, {"hparams.hidden_dropout_prob": p}, seed=1) for p in (0.15, 0.55)]
    files = [build(place / "results", {"uni": c})[1].inputs["pretrain"] for c in (cell, *trials)]
    assert len(set(files)) == 3
    for trial, p in zip(trials, (0.15, 0.55), strict=True):
        assert trial.spec.inputs["pretrain"]["student"]["hparams"]["hidden_dropout_prob"] == p
    # As if the experiment had said so.
    said = variant() | {"hparams": {**SMALL["hparams"], "hidden_dropout_prob": 0.15}}
    assert addresses(write_experiment, uni=said)["uni"].cell == trials[0].cell
