"""Curve reading and paired comparison against hand calculation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import compare_quality
from benchmarks.bench_students import Reach, Timing, table, timing
from benchmarks.common import (
    Clock,
    Curve,
    Point,
    first_reach,
    load_split,
    read_curve,
    run_arguments,
    write_rival,
)


def point(cpu: float, ndcg: float, *, epoch_end: bool = False, epoch: int = 1, step: int = 10) -> Point:
    return Point(epoch, step, cpu, cpu, ndcg, 0.0, epoch_end, 100.0)


@pytest.mark.parametrize(
    ("values", "first", "held"),
    [
        ([0.01, 0.05, 0.04, 0.06, 0.07], 1, 3),
        ([0.05, 0.05], 0, 0),
        ([0.06, 0.04], 0, None),
        ([0.01, 0.02], None, None),
    ],
)
def test_first_and_held(values: list[float], first: int | None, held: int | None) -> None:
    points = [point(float(i), v) for i, v in enumerate(values)]
    for want, found in (
        (first, first_reach(points, 0.05, held=False)),
        (held, first_reach(points, 0.05, held=True)),
    ):
        assert (None if found is None else int(found.cpu)) == want


def test_curve_is_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    curve = Curve(tmp_path, Clock())
    curve.add(epoch=1, step=5, ndcg=0.1, recall=0.2, epoch_end=True)
    assert read_curve(tmp_path) == curve.points
    curve.add(epoch=2, step=9, ndcg=0.2, recall=0.3, epoch_end=True)
    assert [p.step for p in read_curve(tmp_path)] == [5, 9]


def test_a_rival_leaves_ranks_in_the_order_of_the_split_and_its_last_epoch(tmp_path: Path) -> None:
    split, _ = load_split("ml-100k")
    args = run_arguments(None).parse_args(["--model", "BERT4Rec", "--out", str(tmp_path), "--seed", "7"])
    watch = SimpleNamespace(clock=Clock(), curve=Curve(tmp_path, Clock()), ended="", best_epoch=1)
    watch.eval_seconds = 0.5
    for epoch in (1, 2):
        watch.curve.add(epoch=epoch, step=5 * epoch, ndcg=0.1, recall=0.2, epoch_end=True)
    rank = np.arange(1, len(split.test) + 1, dtype=np.float32)
    ranks = {"valid": np.ones(len(split.valid)), "test": rank}
    found = write_rival("Rival", args, {"lr": 0.1}, watch, split, ranks)
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    assert (found["model"], found["seed"], found["epochs"], found["best_epoch"]) == ("BERT4Rec", 7, 2, 1)
    assert found["valid"] == {"NDCG@10": 1.0, "Recall@10": 1.0}
    assert found["test"]["Recall@10"] == pytest.approx(10 / len(split.test))
    written = pd.read_parquet(tmp_path / "ranks.parquet").query("split == 'test'")
    users = split.dataset.user_tokens[split.test.history.users].astype(str)
    assert dict(zip(written["user"], written["rank"], strict=True)) == dict(zip(users, rank, strict=True))


def test_epoch_seconds_are_measured_or_scaled_up() -> None:
    summary = {"system": "RecBole", "model": "SASRec", "cpu_seconds": 9.0, "ended": "", "steps_per_epoch": 40}
    scaled = timing(summary, [point(9.0, 0.1, step=10)], (0.05, 0.2))
    assert scaled.epoch_cpu == 36.0
    assert scaled.epoch_is_scaled
    assert scaled.reach == [Reach(0.05, 9.0, 9.0), Reach(0.2, None, None)]
    measured = timing(summary, [point(9.0, 0.1, epoch_end=True, epoch=3), point(11.0, 0.1, epoch=4)], (0.05,))
    assert measured.epoch_cpu == 3.0
    assert not measured.epoch_is_scaled


def test_table_gives_no_ratio_for_what_was_not_reached() -> None:
    def one(system: str, seconds: float | None) -> Timing:
        return Timing(system, "SASRec", 5.0, False, 50.0, 0.06, 500.0, "", [Reach(0.05, seconds, None)])

    pair = [one("recbole_kd", 10.0), one("RecBole", 200.0)]
    text = table(pair, held=True)
    assert "| SASRec | CPU-s to valid NDCG@10 0.05, first | 10.0 | 200.0 | 20.0x |" in text
    assert "| SASRec | CPU-s to valid NDCG@10 0.05, held | not reached | not reached |  |" in text
    assert "held" not in table(pair, held=False)


def ranks_file(path: Path, ranks: list[float], items: str = "abcd") -> Path:
    users = [f"u{i}" for i in range(len(ranks))]
    frame = pd.DataFrame({"split": "test", "user": users, "item": list(items[: len(ranks)]), "rank": ranks})
    frame.sample(frac=1, random_state=len(path.name)).to_parquet(path)
    return path


def test_paired_difference_by_hand(tmp_path: Path) -> None:
    seeds = [
        ranks_file(tmp_path / "s1.parquet", [1, 3, 11, 1]),
        ranks_file(tmp_path / "s22.parquet", [1, 1, 1, 11]),
    ]
    reference = ranks_file(tmp_path / "reference.parquet", [1, 1, 11, 11])
    ndcg, recall = compare_quality.compare(
        compare_quality.read_side(seeds, "test", "rank"),
        compare_quality.read_side([reference], "test", "rank"),
    )
    assert recall.ours == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert recall.reference == pytest.approx(0.5)
    assert ndcg.difference == pytest.approx(((1 - 1) + (0.75 - 1) + 0.5 + 0.5) / 4)
    assert ndcg.low <= ndcg.difference <= ndcg.high
    assert ndcg.n_users == 4


def test_interval_agrees_with_the_normal_approximation() -> None:
    difference = np.random.default_rng(1).normal(0.01, 0.2, 900)
    low, high = compare_quality.interval(difference, seed=0)
    half = 1.96 * difference.std(ddof=1) / 30
    assert low == pytest.approx(difference.mean() - half, abs=half / 15)
    assert high == pytest.approx(difference.mean() + half, abs=half / 15)


def test_with_one_seed_each_the_interval_over_seeds_is_unknown(tmp_path: Path) -> None:
    files = [ranks_file(tmp_path / f"{n}.parquet", ranks) for n, ranks in enumerate(([1, 2], [2, 2]))]
    for c in compare_quality.compare(*(compare_quality.read_side([f], "test", "rank") for f in files)):
        assert c.seeds_too is None


def test_interval_over_seeds_by_hand() -> None:
    """No scatter of seeds: Student's t over users. No scatter of users: the two-sample t test over seeds."""
    difference = np.random.default_rng(1).normal(0.01, 0.2, 50)
    want = stats.ttest_1samp(difference, 0).confidence_interval()
    assert compare_quality.over_seeds_too(difference, np.ones(2), np.ones(1)) == pytest.approx(tuple(want))
    ours, reference = np.array([0.5, 0.9, 0.7]), np.array([0.4, 0.5])
    same = np.full(50, ours.mean() - reference.mean())
    want = stats.ttest_ind(ours, reference).confidence_interval()
    assert compare_quality.over_seeds_too(same, ours, reference) == pytest.approx(tuple(want))


def test_interval_over_seeds_holds_what_it_says() -> None:
    """True difference 0: some 94 of 100 intervals hold it, those over users alone far fewer."""
    rng, n, held, narrow = np.random.default_rng(0), 200, 0, 0
    for _ in range(400):
        taste = rng.normal(0, 0.2, n)
        a, b = (taste + rng.normal(0, 0.1, (k, n)) + rng.normal(0, 0.03, (k, 1)) for k in (3, 2))
        difference = a.mean(0) - b.mean(0)
        low, high = compare_quality.over_seeds_too(difference, a.mean(1), b.mean(1)) or (0.0, 0.0)
        held += low <= 0 <= high
        half = 1.96 * difference.std(ddof=1) / n**0.5
        narrow += abs(difference.mean()) <= half
    assert held / 400 > 0.91
    assert narrow / 400 < 0.7


def test_other_targets_are_refused(tmp_path: Path) -> None:
    one = ranks_file(tmp_path / "one.parquet", [1, 2])
    other = ranks_file(tmp_path / "other.parquet", [1, 2], items="xy")
    with pytest.raises(ValueError, match="do not have the same test targets"):
        compare_quality.read_side([one, other], "test", "rank")
    sides = [compare_quality.read_side([p], "test", "rank") for p in (one, other)]
    with pytest.raises(ValueError, match="share 0 of 2"):
        compare_quality.compare(*sides)


def test_runs_of_one_variant_are_found(tmp_path: Path) -> None:
    def cell(variant: str, seed: int) -> dict:
        return {
            "dataset": "d",
            "backbone": "SASRec",
            "variant": variant,
            "seed": seed,
            "run": f"../runs/{variant}{seed}",
        }

    path = tmp_path / "experiment.json"
    path.write_text(
        json.dumps({"cells": [cell("plain", 1), cell("kd", 1), cell("plain", 2)]}), encoding="utf-8"
    )
    found = compare_quality.from_experiment(path, "d", "SASRec", "plain")
    assert [p.name for p in found] == ["plain1", "plain2"]
    with pytest.raises(SystemExit, match="no cell"):
        compare_quality.from_experiment(path, "d", "GRU4Rec", "plain")
