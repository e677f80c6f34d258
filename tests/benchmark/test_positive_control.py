"""The positive control must find its effect, and the placebo must not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from analysis.comparison import compare
from analysis.load import load_results

# Relative gain over the plain backbone that is asked of true profiles; they gave at least twice as much.
MARGIN = 100.0
ALPHA = 0.01


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_true_profiles_give_a_large_gain_and_shuffled_ones_none(repo_root, tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "data"))
    command = [
        sys.executable,
        "run_benchmark.py",
        "run",
        "positive_control",
        "--results",
        str(tmp_path),
        "-q",
    ]
    subprocess.run(command, cwd=repo_root, check=True)
    found = compare(load_results(tmp_path / "positive_control"), metrics=["NDCG@10"])
    by_method = {(c.backbone, c.variant): c for c in found}
    assert len(by_method) == 4
    for (backbone, variant), comparison in by_method.items():
        result = comparison.result
        if variant == "kd-trait":
            assert result.p_corrected < ALPHA, (backbone, result)
            assert comparison.gain > MARGIN, (backbone, comparison.gain)
        else:
            assert not (result.p < 0.05 and result.estimate > 0), (backbone, result)
