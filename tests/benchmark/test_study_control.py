"""Synthetic positive control: the dose-response that must be there is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.studies.dose import lost_dose
from analysis.studies.gains import lines, trends
from analysis.studies.known import same_profiles
from analysis.studies.run import StudyRun, load_study_run

ALPHA = 0.01


def run_study(name: str, variants: str, results: Path, root: Path) -> StudyRun:
    only = f"dataset=synthetic-trait & seed=1,2 & variant={variants}"
    command = [sys.executable, "run_benchmark.py", "study", name, "--only", only, "-j", "0", "-q"]
    subprocess.run([*command, "--results", str(results)], cwd=root, check=True)
    return load_study_run(results / f"study_{name}")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_gain_falls_with_the_dose_and_with_age(repo_root, tmp_path, monkeypatch):
    """Shuffled among more users the gain falls to the placebo's; with more of the history it rises."""
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "data"))
    variants = "plain,kd,kd-shuffled,shuffle@0.25,shuffle@0.5,shuffle@0.75,shuffle@1"
    run = run_study("hallucination", variants, tmp_path, repo_root)
    made = [g for g in run.gains if g.result is not None and g.comparison.dataset == "synthetic-trait"]
    own = [g for g in lines(made)["synthetic-trait", "SASRec", "shuffle"] if g.result is not None]
    assert [g.x for g in own] == [0, 0.25, 0.5, 0.75, 1]
    assert own[0].result.p < ALPHA
    assert own[0].result.estimate > 0
    assert same_profiles(run, ["shuffle@1", "kd-shuffled"]).holds
    (trend,) = [t for t in trends(run) if t.line[2] == "shuffle"]
    assert trend.result.estimate < 0
    assert trend.result.p < ALPHA
    placebo = next(g for g in made if g.comparison.variant == "kd-shuffled")
    half = lost_dose(own, placebo, share=0.5)
    assert 0 < half.low <= half.dose <= half.high < 1
    stale = run_study("staleness", "plain,kd,age@0.25,age@0.5,age@1", tmp_path, repo_root)
    (rise,) = [t for t in trends(stale) if t.line[0] == "synthetic-trait"]
    assert rise.result.estimate > 0
    assert rise.result.p < ALPHA
    assert same_profiles(stale, ["age@1", "kd"]).holds
