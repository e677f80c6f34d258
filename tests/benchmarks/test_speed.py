"""The page of the speed benchmark, the floor against a profiler's count, thread choice, the generator."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from benchmarks.floor import Peak, Work, epoch_work, products
from benchmarks.generate import interactions, walk, write
from benchmarks.overheads import Turns, best_threads
from benchmarks.speed_page import draw, page, seconds_to, shown_level
from benchmarks.student_run import student_spec
from recbole_kd.data.load import load_dataset
from recbole_kd.data.spec import read_dataset_spec
from recbole_kd.data.split import make_split
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from tests.students import BACKBONES, sequences


def entry(system, epoch, reached, **more):
    reach = [{"level": level, "first": s, "held": s} for level, s in zip((0.03, 0.05), reached, strict=True)]
    base = {"system": system, "model": "SASRec", "dataset": "ml-100k", "epoch_cpu": epoch}
    base |= {"epoch_is_scaled": False, "cpu_seconds": 99.0, "best_ndcg": 0.06, "peak_memory_mb": 500.0}
    return base | {"ended": "", "reach": reach, "eval_seconds": 0.2, **more}


def record(**more):
    floor = {"flops": 2e9, "bytes": 1e9, "positions": 10, "steps": 2, "seconds": 0.5}
    peak = {"flops": 4e9, "bytes": 8e9, "threads": 1, "device": "cpu"}
    overhead = {"model": "SASRec", "epoch_cpu": {"plain": 4.0}, "distillation": 0.05, "diagnostics": 0.01}
    base = {
        "date": "2026-01-01",
        "machine": {"processor": "P", "machine": "x", "cores": 2},
        "device": "cpu",
        "versions": {"torch": "2", "rectools": None},
        "seed": 1,
        "budget": 100.0,
        "quick": False,
        "recbole": {"batch_size": 256, "anomaly_detection": True},
        "left_out": ["RePlay"],
        "entries": [
            entry("recbole_kd", 4.0, (10.0, 20.0)),
            entry("RecBole", 200.0, (300.0, None)),
            {"system": "RecTools", "model": "SASRec", "dataset": "ml-100k", "error": "boom\nmore"},
        ],
        "interactions": {"ml-100k": {"recbole_kd": 100_000, "RecBole": 100_000, "RecTools": 40_000}},
        "floors": {"ml-100k": {"peak": peak, "floor": {"SASRec": floor}}},
        "overheads": [overhead | {"seconds_by_threads": {"1": 2.0, "2": 1.5}, "best_threads": 2}],
    }
    return base | more


def test_an_epoch_of_fewer_interactions_is_compared_by_the_interaction():
    entries = [entry("recbole_kd", 4.0, (10.0, 20.0)), entry("RecTools", 2.0, (50.0, None))]
    text = page(record(entries=entries), "img/speed.svg")
    assert "| ml-100k | SASRec | RecTools | 2.00 | 0.5x | 40,000 | 50.0 | 1.2x |" in text


def test_what_an_epoch_reads_is_counted_user_by_user():
    split = speed.load_split("ml-100k")[0]
    found = speed.interactions_read("ml-100k")
    lengths = [b - a for a, b in pairwise(split.train.offsets.tolist())]
    assert found["recbole_kd"] == found["RecBole"] == sum(lengths)
    assert found["RecTools"] == found["RePlay"] == sum(min(n, 50) for n in lengths)


def test_the_page_shows_ratios_at_the_highest_level_that_all_reached(tmp_path):
    text = page(record(), "img/speed.svg")
    line = (
        "| ml-100k | SASRec | RecBole | 200.00 | 50.0x | 100,000 | 2000.0 | 50.0x | 300.0 (to 0.03) | 30.0x "
    )
    assert line + "| 0.0600 | 0.20 | 500 |" in text
    assert "| SASRec | recbole_kd | 10.0 (1.0x) | 20.0 (1.0x) |" in text
    assert "| SASRec | RecBole | 300.0 (30.0x) | more than 99 (> 5.0x) |" in text
    assert "the machine had other work" not in text
    busy = page(
        record(entries=[entry("recbole_kd", 4.0, (10.0, None), wall_per_cpu=1.5, ended="early stopping")]),
        "a",
    )
    assert "not reached; stopped early after 99" in busy
    assert "wall over CPU-seconds 1.5 to 1.5" in busy
    assert "failed: boom |" in text
    assert "RePlay was left out" in text
    assert "anomaly detection on, as its import" in text
    assert "anomaly detection off" in page(
        record(recbole={"batch_size": 256, "anomaly_detection": False}), "img/speed.svg"
    )
    assert "of our catalogue softmax" not in text
    lower = page(record(softmax="bfloat16"), "img/speed.svg")
    assert (
        "catalogue softmax are bfloat16, which is this processor's `auto`; the rivals' are float32" in lower
    )
    assert "are float32, which is this processor's `auto`; our short" in page(record(softmax="float32"), "a")
    assert "recbole_kd 8.0x, RecBole 400.0x" in text
    assert "| SASRec | 4.00 | +5.0% | +1.0% | 1: 2.00, 2: 1.50 | 2 |" in text
    draw(record(), tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").stat().st_size > 1000


def test_levels():
    both = record()
    assert shown_level(both, both["entries"][0]) == 0.03
    assert seconds_to(both["entries"][1], 0.05) is None
    only_ours = record(entries=[entry("recbole_kd", 4.0, (10.0, 20.0))])
    assert shown_level(only_ours, only_ours["entries"][0]) == 0.05
    nobody = record(entries=[entry("recbole_kd", 4.0, (None, None))])
    assert shown_level(nobody, nobody["entries"][0]) == 0.03


def test_an_entry_that_is_done_is_not_run_again_and_a_failed_one_is(tmp_path, monkeypatch):
    args = type("Args", (), {})()
    vars(args).update(out=tmp_path, quick=True, seed=1, device="cpu", budget=10.0, max_ours=None)
    vars(args).update(timeout=None, recbole_batch=256, every=5, python={"recbole_kd": "python"})
    calls = []

    def run_one(system, model, folder, options, *, python, timeout):
        calls.append(options)
        if len(calls) == 1:
            raise speed.subprocess.CalledProcessError(1, "x")
        folder.mkdir(parents=True)
        point = {"epoch": 1, "step": 3, "cpu": 2.0, "wall": 2.5, "ndcg": 0.04, "recall": 0.1}
        point |= {"epoch_end": True, "peak_memory_mb": 1.0}
        (folder / "curve.jsonl").write_text(json.dumps(point) + "\n")
        return {"system": system, "model": model, "cpu_seconds": 2.0, "ended": "x", "hparams": {}}

    monkeypatch.setattr(speed, "run_one", run_one)
    found = [speed.run_entry(args, "recbole_kd", "SASRec", "ml-100k") for _ in range(3)]
    assert "error" in found[0]
    assert found[1] == found[2]
    assert len(calls) == 2
    assert found[1]["epoch_cpu"] == 2.0


def test_rivals_get_our_network():
    hparams = student_spec("BERT4Rec", []).hparams
    options = speed.network_options("RePlay", "BERT4Rec", hparams)
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--n-blocks": "2",
        "--n-heads": "2",
        "--hidden-size": "64",
        "--dropout": str(hparams["hidden_dropout_prob"]),
        "--mask-prob": str(hparams["mask_ratio"]),
    }


@pytest.mark.parametrize("model", BACKBONES)
def test_counted_operations_agree_with_torch(model):
    """Of a full row, forward; torch counts products only, as the floor does."""
    max_len, n_items = 20, 500
    spec = student_spec(model, [])
    student = build_student(spec.model, spec.hparams, n_items=n_items, max_len=max_len, seed=0)
    batches = SequenceBatches(
        sequences([list(range(1, max_len + 1 + student.shift))] * 4),
        max_len,
        4,
        shift=student.shift,
        packed=student.packed,
    )
    (batch,) = batches.epoch(np.random.default_rng(0))
    positions = 4 * max_len
    assert int((batch.target > 0).sum()) == positions
    counter = FlopCounterMode(display=False)
    # The fused kernel of a CPU is not counted.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        student.encode(batch, None)
    counted = counter.get_total_flops()
    if model == "GRU4Rec":
        # torch has no formula for its fused GRU: compared by hand.
        width, dim = spec.hparams["hidden_size"], spec.hparams["embedding_size"]
        counted = positions * 2 * 3 * width * (dim + width)
    head = {"SASRec": 1, "GRU4Rec": 2, "BERT4Rec": 2}[model]
    ours = positions * sum(p[0] for p in products(spec, n_items, max_len)[:-head])
    assert ours == pytest.approx(counted, rel=0.01)


def test_the_floor_is_the_slower_of_products_and_bytes():
    peak = Peak(flops=10.0, bytes=2.0, threads=1, device="cpu")
    assert Work(flops=100.0, bytes=4.0, positions=1, steps=1).seconds(peak) == 10.0
    assert Work(flops=10.0, bytes=40.0, positions=1, steps=1).seconds(peak) == 20.0
    spec = student_spec("SASRec", [])
    one, two = (epoch_work(spec, n, 100, 50, 1000) for n in (8000, 16000))
    assert two.flops == 2 * one.flops
    assert two.steps == 2 * one.steps


def test_fewest_threads_among_the_fast():
    assert best_threads({1: 2.0, 2: 1.0, 4: 0.98}) == 2
    assert best_threads({1: 1.0, 2: 1.5}) == 1


def test_turns_pass_over_those_that_left():
    turns = Turns(3)
    turns.wait(0)
    turns.done(0, last=True)
    turns.wait(1)
    turns.done(1)
    turns.wait(2)
    turns.done(2)
    turns.wait(1)


def test_generated_histories_follow_the_order(tmp_path: Path):
    lengths = np.full(300, 30)
    user, item, _ = walk(lengths, 1000, 10, 0.6, np.random.default_rng(0))
    assert np.array_equal(np.bincount(user), lengths)
    rows = item.reshape(300, 30)
    assert all(len(set(row % 10)) == 1 for row in rows), "a user keeps to a taste"
    pairs = {}
    for a, b in zip(rows[:, :-1].ravel(), rows[:, 1:].ravel(), strict=True):
        pairs.setdefault(a, []).append(b)
    often = [max(map(v.count, v)) / len(v) for v in pairs.values() if len(v) > 30]
    assert 0.55 < np.mean(often) < 0.85
    columns = interactions(500, 1000, 8.0, n_tastes=10, order=0.6, seed=1)
    assert np.all(np.diff(columns[2]) >= 0), "a log in the order of the clock"
    spec = read_dataset_spec(str(write(tmp_path, "gen", columns, 20)))
    split = make_split(load_dataset(spec), spec.split)
    assert len(split.test) == len(split.valid) == 500
    assert split.dataset.counts["interactions"] == len(columns[0])
