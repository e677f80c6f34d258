"""Exports give the trained student's scores, cost what a plain backbone costs and can be read by others."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.cli import main
from recbole_kd.compat import recbole_config
from recbole_kd.errors import StoreError, UserError
from recbole_kd.models.mixin import HEAD
from recbole_kd.serving.cost import request_flops
from recbole_kd.serving.export import TARGETS, export
from recbole_kd.serving.student import Scorer, find_run, load_student, requests
from tests.students import BACKBONES


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def readme_code(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_loaded_is_what_was_ranked(make_run, backbone):
    """Ranks of the run directory against full_sort_predict of the student read back from it."""
    import pyarrow.parquet as pq

    run = make_run(backbone)
    trained = load_student(run)
    assert not [k for k in trained.model.state_dict() if k.startswith(HEAD)]
    split = read_split(split_file(run.parent.parent, trained.spec))
    stored = pq.read_table(run / "ranks.parquet").to_pandas()
    stored = stored[stored["split"] == "test"].set_index("user")["rank"]
    for row in range(5):
        history = split.test.history.row(row)[-trained.max_len :]
        item_seq = torch.zeros(1, trained.max_len, dtype=torch.int64)
        item_seq[0, : len(history)] = torch.from_numpy(history)
        given = {"item_id_list": item_seq, "item_length": torch.tensor([len(history)])}
        with torch.no_grad():
            scores = trained.model.full_sort_predict(given)[0, 1:].numpy()
        target = scores[split.test.targets[row] - 1]
        # Products of other shapes differ in the last bits, which may order a near tie otherwise.
        low, high = 1 + (scores > target + 1e-5).sum(), (scores > target - 1e-5).sum()
        user = split.dataset.user_tokens[split.test.history.users[row]]
        assert low <= stored[user] <= high


@pytest.mark.parametrize("backbone", BACKBONES)
def test_recbole_checkpoint_serves_in_plain_recbole(make_run, tmp_path, monkeypatch, backbone):
    run = make_run(backbone)
    trained = load_student(run)
    folder = tmp_path / "out"
    about = export(trained, "recbole", folder, None)
    assert (
        about["parameters"]
        == about["plain_parameters"]
        == sum(v.numel() for v in load_file(run / "model.safetensors").values())
    )
    assert about["flops"] == about["plain_flops"]
    settings = yaml.safe_load((folder / "recbole.yaml").read_text())
    assert settings["MAX_ITEM_LIST_LENGTH"] == 8
    assert settings["eval_args"]["split"] == {"LS": "valid_and_test"}
    # What the README shows, with our Config in the place of RecBole's, which new numpy and torch do not like.
    code = readme_code(folder)
    line = f'config = Config(model="{backbone}", dataset="tiny", config_file_list=["recbole.yaml"])'
    assert line in code
    given = {**settings, "data_path": os.environ["RECBOLE_KD_DATA"], "device": "cpu"}
    config = recbole_config(backbone, "tiny", given)
    monkeypatch.chdir(folder)
    seen = {"config": config}
    exec(code.replace(line, ""), seen)
    assert type(seen["model"]).__module__.startswith("recbole.")
    item_seq, length = torch.tensor([[3, 5, 7, 0, 0, 0, 0, 0]]), torch.tensor([3])
    with torch.no_grad():
        theirs = seen["model"].full_sort_predict({"item_id_list": item_seq, "item_length": length})
    assert seen["dataset"].num("item_id") == trained.n_items
    if backbone == "BERT4Rec":  # RecBole drops the first item
        item_seq, length = torch.tensor([[5, 7, 0, 0, 0, 0, 0, 0]]), torch.tensor([2])
    with torch.no_grad():
        torch.testing.assert_close(Scorer(trained.model)(item_seq, length), theirs, atol=1e-5, rtol=0)


GRAPHS = [
    # torch.export takes seconds; the two other backbones run among the slow tests.
    pytest.param(n, b, marks=[pytest.mark.slow] if n != "torchscript" and b != "SASRec" else [])
    for n in TARGETS
    for b in BACKBONES
    if n != "recbole"
]


@pytest.mark.parametrize(("name", "backbone"), GRAPHS)
def test_graphs_equal_torch_for_any_batch(make_run, tmp_path, monkeypatch, capsys, backbone, name):
    """Read back by the README's own means, at batch sizes and lengths that the export never saw."""
    if name == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra 'export' is not installed")
    trained = load_student(make_run(backbone))
    tokens = ["[PAD]", *(f"i{k}" for k in range(1, trained.n_items))]
    folder = tmp_path / "out"
    about = export(trained, name, folder, tokens)
    assert about["largest_difference"] <= 1e-5
    score = TARGETS[name].load(trained, folder / about["file"])
    for batch in (1, 5, 64):
        lengths = np.random.default_rng(batch).integers(1, trained.max_len + 1, batch)
        item_seq, item_seq_len = requests(trained.n_items, trained.max_len, lengths, seed=99)
        with torch.no_grad():
            expected = trained.model.full_sort_predict(
                {"item_id_list": item_seq, "item_length": item_seq_len}
            )
            torch.testing.assert_close(score(item_seq, item_seq_len), expected, atol=1e-5, rtol=0)
    monkeypatch.chdir(folder)
    exec(readme_code(folder), {})
    item_seq = torch.zeros(1, trained.max_len, dtype=torch.int64)
    item_seq[0, :3] = torch.tensor([1, 2, 3])
    with torch.no_grad():
        scores = Scorer(trained.model)(item_seq, torch.tensor([3]))
    best = scores[0, 1:].topk(10).indices + 1
    assert capsys.readouterr().out.strip().splitlines()[-1] == str([tokens[i] for i in best])


def test_padding_items_do_not_reach_the_scores(make_run):
    trained = load_student(make_run("SASRec"))
    scorer = Scorer(trained.model)
    item_seq, length = requests(trained.n_items, trained.max_len, np.array([3]), 0)
    other = item_seq.clone()
    other[0, 3:] = 5
    with torch.no_grad():
        torch.testing.assert_close(scorer(item_seq, length), scorer(other, length))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_operations_are_counted(make_run, backbone):
    """A head that stayed would show: the count follows the matrix products of one request."""
    trained = load_student(make_run(backbone))
    n, length = trained.n_items, trained.max_len
    flops = request_flops(Scorer(trained.model), n, length)
    width = trained.model.item_embedding.weight.shape[1]
    assert flops > 2 * width * n
    trained.model.add_module("extra", torch.nn.Linear(width, width))
    serve = trained.model.serve_states
    trained.model.serve_states = lambda *given: trained.model.extra(serve(*given))
    assert request_flops(Scorer(trained.model), n, length) == flops + 2 * width * width


def test_cli_writes_whole_folders_and_says_what_is_wrong(make_run, place, capsys):
    run, results = make_run("GRU4Rec"), place / "results"
    before = {p.name for p in (place / "results").iterdir()}
    assert call("export", run.name[:8], "--to", "onx", "--results", results) == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
    assert call("export", "ffffffff", "--to", "onnx", "--results", results) == 2
    assert "no such run" in capsys.readouterr().err
    assert {p.name for p in (place / "results").iterdir()} == before
    assert call("export", run.name[:8], "--to", "torchscript", "--results", results, "--json") == 0
    about = json.loads(capsys.readouterr().out)
    folder = Path(about["folder"])
    assert folder == results / "exports" / f"{run.name}-torchscript"
    files = {"model.ts", "items.json", "export.json", "README.md"}
    assert {p.name for p in folder.iterdir()} == files
    tokens = json.loads((folder / "items.json").read_text())
    assert tokens[0] == "[PAD]"
    assert len(tokens) == about["n_items"]
    split = read_split(split_file(results, load_student(run).spec))
    assert tokens == [str(t) for t in split.dataset.item_tokens]
    assert call("export", run, "--to", "torchscript", "--results", results) == 0
    assert {p.name for p in (results / "exports").iterdir()} == {folder.name}
    other = results / "mine"
    other.mkdir()
    (other / "precious").write_text("x")
    assert call("export", run, "--to", "torchscript", "--out", other) == 2
    assert "is no export" in capsys.readouterr().err
    assert (other / "precious").read_text() == "x"


def test_without_the_dataset_there_is_no_list_of_items(make_run, place, capsys, monkeypatch):
    run = make_run("SASRec")
    for file in (place / "results" / "cache" / "splits").iterdir():
        file.unlink()
    monkeypatch.setenv("RECBOLE_KD_DATA", str(place / "nowhere"))
    assert call("export", run, "--to", "recbole", "--json") == 0
    said = capsys.readouterr()
    assert "items.json" in said.err
    assert json.loads(said.out)["items"] is None


def test_damaged_and_foreign_runs_are_refused(make_run, place):
    run = make_run("SASRec")
    with pytest.raises(UserError, match="no such run"):
        find_run("", place / "results")
    blob = bytearray((run / "ranks.parquet").read_bytes())
    blob[40] ^= 1
    (run / "ranks.parquet").write_bytes(bytes(blob))
    with pytest.raises(StoreError, match="differs from what was written"):
        load_student(run)


def test_a_wrong_file_is_not_kept(make_run, tmp_path, monkeypatch):
    """The check is against the student's scores, so a format that loses something cannot be written."""
    trained = load_student(make_run("SASRec"))
    honest = TARGETS["recbole"]

    def write(t, path):
        state = {k: v.clone() for k, v in t.model.student_state().items()}
        state["item_embedding.weight"] += 0.01
        torch.save({"state_dict": state}, path)

    monkeypatch.setitem(TARGETS, "recbole", type(honest)(honest.file, write, honest.load, ""))
    with pytest.raises(StoreError, match="off the student's"):
        export(trained, "recbole", tmp_path / "out", None)
    assert not list(tmp_path.glob("*out*"))
