"""Cells whose training dies: the next process goes on, the run is the same, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbole_kd.benchmark import checkpoints, rundir
from recbole_kd.benchmark.artefacts import build
from recbole_kd.benchmark.console import JsonReporter, RichReporter
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.executor import DONE, EXISTS, CellTask, run_cell
from recbole_kd.benchmark.locks import try_lock
from recbole_kd.benchmark.plan import make_plan
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.status import prunable, remove
from recbole_kd.benchmark.sweep import run_sweep

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 4, "stopping_step": 4, "train_batch_size": 16},
}


def device(place, seconds):
    """Keep checkpoints so often."""
    values = yaml.safe_load((ROOT / "properties/device/cpu.yaml").read_text())
    (place / "properties/device").mkdir(exist_ok=True)
    values["checkpoint_seconds"] = seconds
    (place / "properties/device/cpu.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def planned(place, write_experiment, monkeypatch):
    monkeypatch.setattr("recbole_kd.training.checkpoint._SHARE", 0)
    device(place, 1e-9)
    write_experiment("one", {"variants": {"plain": SMALL}, "seeds": [1]})
    (cell,) = load_experiment("one").cells
    return cell


def task_of(planned, results):
    files = build(results, [planned])[planned.cell]
    return CellTask.build(results, planned.cell, planned.label, planned.spec, files, "cpu", ("NDCG@10",))


def dying(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


def content(results, cell):
    path = rundir.run_path(results, cell)
    return {name: (path / name).read_bytes() for name in ("ranks.parquet", "model.safetensors", "spec.yaml")}


def test_a_cell_that_died_twice_is_the_same_run(planned, tmp_path, capsys):
    whole, results = tmp_path / "whole", tmp_path / "r"
    assert run_cell(task_of(planned, whole)).resumed_at == ()
    task = task_of(planned, results)
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run_cell(task, dying(epoch))
    assert [p.name for p in checkpoints.folder(results).iterdir()] == [f"{planned.cell}.pt"]
    outcome = run_cell(task)
    assert (outcome.status, outcome.resumed_at) == (DONE, (1, 3))
    assert f"cell {planned.cell}: resumed at epoch 3" in capsys.readouterr().err
    assert content(results, planned.cell) == content(whole, planned.cell)
    manifest, other = (
        rundir.read_manifest(rundir.run_path(folder, planned.cell)) for folder in (results, whole)
    )
    assert manifest["execution"]["resumed_at"] == [1, 3]
    assert {part["code"] for part in manifest["execution"]["earlier_parts"]} == {manifest["code"]["source"]}
    assert (other["execution"]["resumed_at"], other["execution"]["earlier_parts"]) == ([], [])
    assert manifest["metrics"] == other["metrics"]
    assert manifest["best_epoch"] == other["best_epoch"]
    assert manifest["seconds"]["train"] + manifest["seconds"]["valid"] < manifest["seconds"]["fit"]
    for folder in (results, whole):
        assert not list(checkpoints.folder(folder).iterdir())


def test_the_line_of_a_resumed_cell_says_so(planned, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run_cell(task_of(planned, tmp_path / "r"), dying(3))
    outcome = run_cell(task_of(planned, tmp_path / "r"))
    (state,) = make_plan([planned], tmp_path / "r").states
    for reporter, words in ((RichReporter(), "resumed at epoch 2"), (JsonReporter(), '"resumed_at": [2]')):
        with reporter.running(1, 0, None):
            reporter.finished(state, outcome, None)
        assert words in capsys.readouterr().out


def test_a_checkpoint_that_outlived_its_run_goes(planned, tmp_path):
    task = task_of(planned, tmp_path)
    run_cell(task)
    path = checkpoints.path_of(tmp_path, planned.cell)
    path.write_bytes(b"left")
    assert run_cell(task).status == EXISTS
    assert not path.exists()


def test_a_corrupt_run_is_replaced_whoever_finds_it(planned, tmp_path):
    """Not only where a sweep planned it: a tuner or the maker of a recommender's lists finds it as well."""
    task = task_of(planned, tmp_path)
    assert run_cell(task).status == DONE
    ranks = rundir.run_path(tmp_path, planned.cell) / "ranks.parquet"
    content = ranks.read_bytes()
    ranks.write_bytes(content[:-9])
    assert not rundir.whole(tmp_path, planned.cell)
    assert run_cell(task).status == DONE
    assert rundir.whole(tmp_path, planned.cell)
    assert len(rundir.set_aside_folders(tmp_path)) == 1
    assert run_cell(task).status == EXISTS


def test_prune_spares_what_was_paid_for_and_what_is_in_use(planned, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_cell(task_of(planned, tmp_path), dying(3))
    cache = tmp_path / "cache"
    kept = [cache / "profiles" / "profiles.sqlite", cache / "llm" / "profiles.sqlite", cache / "tuned" / "x"]
    made = [cache / "profiles" / "a-1.parquet", cache / "lists" / "b.parquet", cache / "last-k" / "c.parquet"]
    for path in (*kept, *made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    checkpoint = checkpoints.path_of(tmp_path, planned.cell)
    found = [path for path, why in prunable(tmp_path, cache=True) if why == "cache"]
    with try_lock(tmp_path, "cell-of-another-process"):
        assert set(remove(tmp_path, found)) == set(found)
        assert all(path.exists() for path in (*kept, *made))
    assert remove(tmp_path, found) == []
    assert not any(path.exists() for path in (*made, cache / "splits"))
    assert all(path.exists() for path in (*kept, checkpoint))


def test_prune_knows_checkpoints_that_no_experiment_names(planned, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_cell(task_of(planned, tmp_path), dying(3))
    path = checkpoints.path_of(tmp_path, planned.cell)
    assert path.is_file()
    found = dict(prunable(tmp_path, cache=False))
    assert path in found
    remove(tmp_path, list(found))
    assert not path.exists()


def test_how_often_it_is_kept_is_no_part_of_an_address(planned, place):
    device(place, 0)
    (cell,) = load_experiment("one").cells
    assert cell.cell == planned.cell
    assert "checkpoint" not in str(cell.spec.canonical())


KILLED = """
import os, signal, sys
from pathlib import Path
from recbole_kd.benchmark import checkpoints
from recbole_kd.benchmark.artefacts import build
from recbole_kd.benchmark.executor import CellTask, run_cell
from recbole_kd.benchmark.resolve import load_experiment
results = Path(sys.argv[1])
(cell,) = load_experiment("one").cells
files = build(results, [cell])[cell.cell]
task = CellTask.build(results, cell.cell, cell.label, cell.spec, files, "cpu", ("NDCG@10",))
run_cell(task, lambda row: os.kill(os.getpid(), signal.SIGKILL) if row["epoch"] == 3 else None)
"""


@pytest.mark.slow
def test_a_killed_process_loses_what_came_after_its_checkpoint(planned, tmp_path):
    results, whole = tmp_path / "r", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, results], env=environment, stdout=subprocess.DEVNULL, timeout=600
    )
    assert ended.returncode == -signal.SIGKILL
    assert checkpoints.path_of(results, planned.cell).is_file()
    for folder in (results, whole):
        sweep = run_sweep(
            load_experiment("one"),
            folder,
            SerialEngine(),
            JsonReporter(),
            device="cpu",
            build=build,
            figures=False,
        )
        assert sweep.failures == {}
    manifest = rundir.read_manifest(rundir.run_path(results, planned.cell))
    # At least the first epoch was kept; how soon the next may be depends on the disk.
    assert manifest["execution"]["resumed_at"] in ([1], [2])
    assert content(results, planned.cell) == content(whole, planned.cell)
    assert not list(checkpoints.folder(results).iterdir())
