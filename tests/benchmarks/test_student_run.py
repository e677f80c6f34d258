"""A measured training that was killed: its curve goes on, its seconds add up, its ranks are the same."""

from __future__ import annotations

from argparse import Namespace

import pandas as pd
import pytest

from benchmarks import student_run
from benchmarks.common import Clock, Curve, read_curve
from benchmarks.student_run import main, student_spec
from recbole_kd.errors import UserError
from tests.students import MAX_LEN, tiny_split


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(student_run, "load_split", lambda name: (tiny_split(), MAX_LEN))
    monkeypatch.setattr("recbole_kd.training.checkpoint._SHARE", 0)

    def run(folder, seconds=1e-9):
        changes = ["hparams.hidden_size=8", "hparams.embedding_size=8"]
        fixed = {
            "dataset": "tiny",
            "model": "GRU4Rec",
            "seed": 1,
            "epochs": 4,
            "stop_at": None,
            "max_cpu": None,
        }
        args = Namespace(**fixed, set=changes, device="cpu", out=folder, checkpoint_seconds=seconds)
        return student_run.run(args)

    return run


def test_a_killed_run_goes_on(measured, tmp_path, monkeypatch):
    whole = measured(tmp_path / "whole", 0)
    add = Curve.add

    def dying(self, **values):
        point = add(self, **values)
        if point.epoch == 3:
            raise KeyboardInterrupt
        return point

    monkeypatch.setattr(Curve, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "r")
    before = read_curve(tmp_path / "r")
    with (tmp_path / "r" / "curve.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    monkeypatch.setattr(Curve, "add", add)
    summary = measured(tmp_path / "r")
    points = read_curve(tmp_path / "r")
    assert [p.epoch for p in points] == [1, 2, 3, 4]
    assert points[:2] == before[:2]
    assert [p.ndcg for p in points] == [p.ndcg for p in read_curve(tmp_path / "whole")]
    assert points[0].cpu < points[1].cpu < points[2].cpu < points[3].cpu <= summary["cpu_seconds"]
    assert (summary["test"], summary["best_epoch"]) == (whole["test"], whole["best_epoch"])
    ranks = [pd.read_parquet(tmp_path / name / "ranks.parquet") for name in ("whole", "r")]
    pd.testing.assert_frame_equal(*ranks)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "curve.jsonl",
        "ranks.parquet",
        "summary.json",
    ]


def test_the_epochs_of_a_model_are_its_own_unless_asked(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(student_run, "load_split", lambda name: (tiny_split(), MAX_LEN))
    monkeypatch.setattr(student_run, "one_thread", lambda: None)

    def told(split, spec, *args, **more):
        seen.append(spec.train.epochs)
        raise KeyboardInterrupt

    monkeypatch.setattr(student_run, "fit", told)
    for more in ([], ["--epochs", "7"]):
        command = ["student_run", "--model", "BERT4Rec", "--out", str(tmp_path), *more]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(KeyboardInterrupt):
            main()
    assert seen == [student_spec("BERT4Rec", []).train.epochs, 7]


def test_a_curve_begins_anew_and_knows_when_it_lacks_an_epoch(tmp_path):
    values = {"step": 0, "ndcg": 0.1, "recall": 0.2, "epoch_end": True}
    for _ in range(2):
        curve = Curve(tmp_path, Clock())
        curve.add(epoch=1, **values)
    assert [p.epoch for p in read_curve(tmp_path)] == [1]
    with pytest.raises(UserError, match="lacks epoch 2"):
        Curve(tmp_path, Clock()).resume(2)
