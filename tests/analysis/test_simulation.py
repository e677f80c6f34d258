"""The whole pipeline on simulated experiments, from ranks to corrected p-values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import latent_ranks, write_experiment

from analysis.comparison import Comparison, compare
from analysis.load import Results, load_results

N_USERS = 150
VARIANTS = ("plain", "kd-a", "kd-b", "kd-c")


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One experiment from disk; the simulations put other ranks into it."""
    root = tmp_path_factory.mktemp("simulation")
    return load_results(
        write_experiment(root, latent_ranks(N_USERS), variants=VARIANTS, metrics=("NDCG@10",))
    )


def run(
    frame: Results, stream: int, gains: dict[str, float], seed_sd: float, test: str = "two-level"
) -> list[Comparison]:
    make = latent_ranks(N_USERS, gains, seed_sd=seed_sd, stream=stream)
    panel = frame.panels["toy"]
    labels = frame.runs.set_index("cell").loc[list(panel.cells), ["dataset", "backbone", "variant", "seed"]]
    rank = np.stack([make(*row) for row in labels.itertuples(index=False)])
    return compare(replace(frame, panels={"toy": replace(panel, rank=rank)}), n_resamples=20, test=test)


def corrected(found: list[Comparison]) -> list[float]:
    return [c.result.p_corrected for c in found if c.result]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed_sd", [0.0, 0.3])
def test_family_wise_error_under_the_null(frame: Results, seed_sd: float) -> None:
    """No method differs: at most 5 % of experiments may show any corrected rejection."""
    n = 200
    wrong = sum(min(corrected(run(frame, i, {}, seed_sd))) < 0.05 for i in range(n))
    assert wrong / n <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_users_alone_reject_too_often_where_seeds_differ(frame: Results) -> None:
    """Why the default is not a test over users: the same null data, seed-averaged."""
    n = 60
    wrong = sum(min(corrected(run(frame, i, {}, 0.3, test="t"))) < 0.05 for i in range(n))
    assert wrong / n > 0.15


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_known_effect_is_found_among_nulls(frame: Results) -> None:
    n = 60
    found = [corrected(run(frame, i, {"kd-b": 1.3}, 0.02)) for i in range(n)]
    assert np.mean([p[1] < 0.05 for p in found]) > 0.9
    assert np.mean([min(p[0], p[2]) < 0.05 for p in found]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)


def test_placebo_against_itself_over_other_seeds(tmp_path: Path) -> None:
    """Six seeds of one placebo, three called baseline and three called method."""
    make = latent_ranks(400, seed_sd=0.1)

    def split(dataset: str, backbone: str, variant: str, seed: int) -> np.ndarray:
        return make(dataset, backbone, "shuffled", seed + (3 if variant == "again" else 0))

    directory = write_experiment(tmp_path, split, variants=("plain", "again"))
    found = compare(load_results(directory), metrics=["NDCG@10", "Recall@10", "MRR"])
    assert min(corrected(found)) > 0.05
