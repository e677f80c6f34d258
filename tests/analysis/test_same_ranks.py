"""Methods that are the same run under two names: alpha 0, a placebo reached by two ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import latent_ranks, write_experiment

from analysis.comparison import Comparison, compare
from analysis.load import load_results

_SAME_AS = {"alpha-0": "plain", "kd-again": "kd"}


def _compared(root: Path, variants: tuple[str, ...]) -> dict[str, Comparison]:
    made = latent_ranks(150, {"kd": 0.4}, seed_sd=0.1)

    def ranks(dataset: str, backbone: str, variant: str, seed: int) -> np.ndarray:
        return made(dataset, backbone, _SAME_AS.get(variant, variant), seed)

    found = load_results(write_experiment(root, ranks, variants=variants))
    return {c.variant: c for c in compare(found, metrics=["NDCG@10"])}


def test_a_method_under_two_names_counts_once_and_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    alone = _compared(tmp_path / "alone", ("plain", "kd", "other"))
    doubled = _compared(tmp_path / "doubled", ("plain", "kd", "other", *_SAME_AS))
    for name in ("kd", "other", "kd-again"):
        one, two = alone[name.removesuffix("-again")].result, doubled[name].result
        assert one is not None
        assert two is not None
        assert (two.low, two.high, two.p) == pytest.approx((one.low, one.high, one.p), rel=1e-12)
    same = doubled["alpha-0"].result
    assert same is not None
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    assert doubled["alpha-0"].gain_low == doubled["alpha-0"].gain_high == 0.0
