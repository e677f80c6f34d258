"""Simulated cold start: slices that are repeated measurements, against scipy, statsmodels and simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multivariate import test_mvmean as hotelling
from synthetic import latent_ranks, target_frame, write_experiment

from analysis.cold_start import compare_last_k, extra_slices, slices_by
from analysis.figures import gain_by_slice_plot
from analysis.load import load_results
from analysis.slices import by_grounding, compare_slices
from analysis.stats.interaction import gain_within_users
from analysis.tables import slice_table
from recbole_kd.errors import StoreError
from recbole_kd.metrics import per_user

N = 300
KS = (1, 3, 10)


def levels(n_seeds: int, gains: tuple[float, ...], seed: int, sd: float = 0.0) -> list[np.ndarray]:
    """Gains of 120 users at every level; a user's levels are correlated."""
    rng = np.random.default_rng(seed)
    user = rng.normal(size=(1, 1, 120))
    seeds = sd * rng.normal(size=(len(gains), n_seeds, 1))
    noise = rng.normal(size=(len(gains), n_seeds, 120))
    return list(np.asarray(gains)[:, None, None] + user + seeds + noise)


def test_omnibus_equals_statsmodels_hotelling() -> None:
    d = levels(3, (0.1, 0.2, 0.4, 0.1), 1)
    omnibus, _ = gain_within_users(d)
    mean = np.stack(d).mean(axis=1)
    theirs = hotelling(np.diff(mean, axis=0).T)
    assert omnibus.statistic == pytest.approx(theirs.statistic)
    assert omnibus.p == pytest.approx(theirs.pvalue)
    # Any other set of K - 1 contrasts spans the same hypothesis.
    assert omnibus.p == pytest.approx(hotelling((mean[1:] - mean[0]).T).pvalue)


def test_two_levels_and_one_seed_are_the_paired_t() -> None:
    d = levels(1, (0.0, 0.3), 2)
    omnibus, trend = gain_within_users(d)
    theirs = stats.ttest_rel(d[1][0], d[0][0])
    assert trend.p == pytest.approx(theirs.pvalue)
    assert omnibus.p == pytest.approx(theirs.pvalue)
    assert trend.estimate == pytest.approx((d[1] - d[0]).mean())
    assert trend.low < trend.estimate < trend.high


def test_equal_levels_have_no_omnibus() -> None:
    same = levels(2, (0.1,), 3) * 3
    omnibus, trend = gain_within_users(same)
    assert np.isnan(omnibus.p)
    assert trend.p == 1


@pytest.mark.slow
def test_level_by_simulation() -> None:
    n, wrong = 600, np.zeros(2)
    for i in range(n):
        found = gain_within_users(levels(3, (0.2, 0.2, 0.2), i), n_resamples=50)
        wrong += [r.p < 0.05 for r in found]
    assert (wrong / n < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / n)).all()


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """The variant gains 1.2 at k = 1 and less with every item shown; a placebo gains nothing."""
    directory = write_experiment(
        tmp_path, latent_ranks(N, {"kd": 0.1}), variants=("plain", "kd", "kd-shuffled")
    )
    targets = target_frame(N, "test")[["user", "item"]]
    for number, k in enumerate(KS):
        make = latent_ranks(N, {"kd": 1.2 - 0.4 * number}, stream=k)
        for cell in json.loads((directory / "experiment.json").read_text())["cells"]:
            rank = make(cell["dataset"], cell["backbone"], cell["variant"], cell["seed"])
            part = targets.assign(last_k=k, rank=rank, rank_masked=np.maximum(1, rank - 3))
            path = tmp_path / "cache" / "last-k" / f"{cell['cell']}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                part = pd.concat([pd.read_parquet(path), part])
            # Order of rows must not matter.
            part.sample(frac=1, random_state=0).to_parquet(path, index=False)
    return directory


def test_gains_after_the_last_k(cold: Path) -> None:
    found = {s.variant: s for s in compare_last_k(load_results(cold), metric="NDCG@100")}
    assert set(found) == {"kd", "kd-shuffled"}
    kd = found["kd"]
    assert kd.slice_labels == ("last 1", "last 3", "last 10", "all")
    for number, k in enumerate(KS):
        make = latent_ranks(N, {"kd": 1.2 - 0.4 * number}, stream=k)
        gain = np.mean(
            [
                per_user(make("toy", "SASRec", "kd", s), "NDCG@100")
                - per_user(make("toy", "SASRec", "plain", s), "NDCG@100")
                for s in range(3)
            ]
        )
        assert kd.slices[number].result.estimate == pytest.approx(gain)
        assert kd.slices[number].n_users == N
    assert kd.trend.p_corrected < 0.05
    assert kd.trend.estimate < 0
    assert kd.omnibus.p < 0.001
    assert found["kd-shuffled"].trend.p_corrected > 0.05


def test_masked_ranks_are_used(cold: Path) -> None:
    plain, masked = (
        compare_last_k(load_results(cold, masked=m), metric="NDCG@100")[0].slices[0] for m in (False, True)
    )
    assert masked.method_mean > plain.method_mean


def test_table_and_figure(cold: Path) -> None:
    results = load_results(cold)
    table = slice_table(results, "last-k")
    text = table.to_markdown()
    assert "Hotelling" in text
    assert "Welch" not in text
    assert len(table.rows) == 2 * 4
    figure = gain_by_slice_plot(results, found=slices_by(results, "last-k"))
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert labels == ["last 1", "last 3", "last 10", "all"]
    assert [kind for kind, _ in extra_slices(results)] == ["last-k"]


def test_a_run_without_a_file_is_left_out_not_averaged(cold: Path) -> None:
    (cold.parent / "cache" / "last-k" / "toy-sasrec-kd-1.parquet").unlink()
    assert [s.variant for s in compare_last_k(load_results(cold))] == ["kd-shuffled"]
    next((cold.parent / "cache" / "last-k").glob("*plain-0*")).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="delete it"):
        compare_last_k(load_results(cold))


def test_nothing_made_yet(trial: Path) -> None:
    results = load_results(trial)
    assert compare_last_k(results) == []
    for kind in ("last-k", "grounding"):
        with pytest.raises(StoreError, match="extras"):
            slices_by(results, kind)
    assert list(extra_slices(results)) == []


def test_grounding_slices_follow_the_file(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(N, {"kd": 0.8}))
    users = [f"u{i:05d}" for i in range(N)]
    score = np.linspace(0, 1, N)
    frame = pd.DataFrame({"dataset": "toy", "variant": "kd", "user": users, "grounding": score})
    frame.iloc[30:].to_parquet(directory / "grounding.parquet", index=False)
    results = load_results(directory)
    found = compare_slices(results, by_grounding(results))[0]
    assert found.slicing.name == "grounding of kd profiles"
    assert [c.n_users for c in found.slices] == [90, 90, 90]
    assert (found.slicing.codes[:30] == -1).all()
    assert [kind for kind, _ in extra_slices(results)] == ["grounding"]
    assert "grounding of kd profiles" in slice_table(results, "grounding").to_markdown()
