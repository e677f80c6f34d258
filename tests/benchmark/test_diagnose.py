"""What was transferred, over the command line: true profiles are learned, strangers' are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binomtest

USERS = 256


def _experiment(folder: Path, **changes: Any) -> Path:
    """One seed of a backbone, plain, distilled and placebo."""
    short = {"distill": {"distil_epochs": 6, "alpha": 0.8}, "train": {"epochs": 7}}
    value: dict[str, Any] = {
        "experiment": "transfer",
        "datasets": ["ml-100k"],
        "backbones": ["GRU4Rec"],
        "variants": {
            "plain": {"train": {"epochs": 2}},
            "kd-template": {"teacher": "template", **short},
            "kd-shuffled": {"teacher": "shuffled", "profile": {"extends": "template"}, **short},
        },
        "seeds": [1],
        "controls": "none",
    }
    path = folder / "transfer.yaml"
    path.write_text(yaml.safe_dump({**value, **changes}, sort_keys=False))
    return path


def _diagnosed(root: Path, path: Path, results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    run = [sys.executable, "run_benchmark.py"]
    subprocess.run([*run, "run", str(path), "--results", str(results), "-q"], cwd=root, check=True)
    said = subprocess.run(
        [*run, "diagnose", str(path), "--results", str(results), "--json"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return {(row["variant"], row["moment"]): row for row in json.loads(said.stdout)}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_alignment_really_transfers_on_ml_100k(repo_root, tmp_path):
    found = _diagnosed(repo_root, _experiment(tmp_path), tmp_path / "results")
    true, strange = found["kd-template", "distilled"], found["kd-shuffled", "distilled"]
    chance = true["chance@k"]
    assert true["retrieval@10"] > 8 * chance
    hits = round(strange["retrieval@10"] * USERS)
    assert binomtest(hits, USERS, chance, alternative="greater").pvalue > 0.01, strange
    assert true["decoded@10"] > found["plain", "final"]["decoded@10"]
    assert found["plain", "final"]["retrieval@10"] is None
    for manifest in (tmp_path / "results" / "runs").glob("*/manifest.json"):
        diagnostics = json.loads(manifest.read_text())["diagnostics"]
        assert diagnostics is None or not diagnostics["collapsed"]
