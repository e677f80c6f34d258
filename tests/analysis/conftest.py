"""Synthetic experiments for the analysis tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import latent_ranks, write_experiment

from analysis.load import Results, load_results


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones x four variants x three seeds, 300 users: kd-llm helps, kd-shuffled does not."""
    return write_experiment(
        tmp_path_factory.mktemp("trial"),
        latent_ranks(300, {"kd-llm": 0.8, "kd-template": 0.3}, seed_sd=0.02),
        backbones=("SASRec", "GRU4Rec"),
        variants=("plain", "kd-template", "kd-llm", "kd-shuffled"),
    )


@pytest.fixture(scope="session")
def results(trial: Path) -> Results:
    return load_results(trial)


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """One seed of kd-llm missing, kd-shuffled failed on every seed."""
    shuffled = [("toy", "SASRec", "kd-shuffled", s) for s in (0, 1, 2)]
    return write_experiment(
        tmp_path,
        latent_ranks(200, {"kd-llm": 0.8}),
        variants=("plain", "kd-llm", "kd-shuffled"),
        skip=[("toy", "SASRec", "kd-llm", 2), *shuffled],
        failures=[
            {
                "cell": "-".join(map(str, k)).lower(),
                "error": "Traceback ...\nMemoryError: <b>out</b> of memory",
            }
            for k in shuffled
        ],
    )
