"""Studies: one family over all parts, trends, answers by rule, known cases that can fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.comparison import compare
from analysis.load import load_results
from analysis.stats.twolevel import two_way
from analysis.studies import write_study_page
from analysis.studies.gains import layout_of, trends
from analysis.studies.known import same_ranks, shown
from analysis.studies.run import load_study_run
from analysis.studies.sentences import answer
from recbole_kd.errors import SpecError, StoreError
from tests.analysis.synthetic import latent_ranks, write_experiment

USERS, SEEDS = 300, (1, 2, 3)


def write_study(tmp_path: Path, gains: dict, points: list, parts: list | None = None, **changes) -> Path:
    """A study on synthetic runs; ``parts``: (x, gains) of several experiments."""
    listed = []
    for number, (x, own) in enumerate(parts or [(None, gains)]):
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        write_experiment(
            folder,
            latent_ranks(USERS, own, stream=number),
            variants=["plain", *own],
            backbones=["SASRec"],
            datasets=["tiny"],
            seeds=SEEDS,
        )
        listed.append({"x": x, "folder": f"../{folder.name}/trial"})
    record = {
        "format": 1, "study": "trial", "smoke": False, "question": "Does it?", "command": "study trial",
        "x": {"label": "dose", "log": None}, "figures": ["curve"], "tables": ["gains"], "known": [],
        "settings": {}, "parts": listed, "points": points,
    }  # fmt: skip
    home = tmp_path / "study_trial"
    home.mkdir()
    (home / "study.json").write_text(json.dumps(record | changes))
    return home


def doses(*places: float) -> list[dict]:
    return [{"variant": f"dose@{x:g}", "series": "dose", "x": x} for x in places]


@pytest.fixture
def falling(tmp_path):
    """A gain that falls with the dose to nothing."""
    gains = {"dose@0": 0.8, "dose@0.5": 0.4, "dose@1": 0.0}
    return write_study(tmp_path, gains, doses(0, 0.5, 1))


def test_one_family_over_all_parts(tmp_path):
    home = write_study(tmp_path, {}, [], [(1, {"kd": 0.3, "other": 0.1}), (2, {"kd": 0.0, "other": 0.2})])
    run = load_study_run(home)
    raw = [
        c.result.p
        for number in (0, 1)
        for c in compare(load_results(tmp_path / f"part{number}" / "trial"), correction="none")
    ]
    wanted = multipletests(raw, method="holm")[1]
    assert [g.result.p_corrected for g in run.gains] == pytest.approx(wanted)
    assert [(g.series, g.x) for g in run.gains] == [("kd", 1), ("other", 1), ("kd", 2), ("other", 2)]


def test_trend_within_users_by_hand(falling):
    """Least squares through the three gains of every user: last minus first."""
    run = load_study_run(falling)
    (trend,) = trends(run)
    d = np.stack([layout_of(g.part, g.comparison).differences for g in run.gains])
    assert trend.result.estimate == pytest.approx((d[2] - d[0]).mean())
    anova = two_way(d[2] - d[0])
    assert trend.result.statistic == pytest.approx(anova.mean / anova.error)
    assert trend.result.estimate < 0
    assert trend.result.p < 1e-3


def test_trend_between_independent_places_by_hand(tmp_path, monkeypatch):
    """numpy's weighted polynomial fit with known errors, at places whose users differ."""
    parts = [(x, {"kd": g}) for x, g in ((1.0, 0.1), (2.0, 0.4), (4.0, 0.5), (8.0, 1.0))]
    run = load_study_run(write_study(tmp_path, {}, [], parts))
    monkeypatch.setattr("analysis.studies.gains._within", lambda *arguments: None)
    (trend,) = trends(run)
    anovas = [two_way(layout_of(g.part, g.comparison).differences) for g in run.gains]
    x, y, error = (np.array(v) for v in ([1, 2, 4, 8], [a.mean for a in anovas], [a.error for a in anovas]))
    slope, covariance = np.polyfit(x, y, 1, w=1 / error, cov="unscaled")
    assert trend.result.estimate == pytest.approx(7 * slope[0])
    assert trend.result.p == pytest.approx(2 * stats.norm.sf(slope[0] / np.sqrt(covariance[0, 0])))


def test_answers_say_what_was_shown_and_what_was_not(tmp_path, falling):
    effect, along, seen = answer(load_study_run(falling))
    assert "of 3 comparisons with 'plain' differ from zero" in effect
    assert "SASRec dose@0" in effect
    assert along.startswith("The gain changes along dose in 1 of 1 lines")
    assert "smallest effect that could have been seen" in seen
    (tmp_path / "null").mkdir()
    null = write_study(tmp_path / "null", {f"dose@{x:g}": 0.0 for x in (0, 0.5, 1)}, doses(0, 0.5, 1))
    effect, along, seen = answer(load_study_run(null))
    assert effect.startswith("No effect shown: none of 3 comparisons")
    assert along.startswith("No trend of the gain along dose shown")


def test_known_cases_can_fail(falling):
    run = load_study_run(falling)
    assert same_ranks(run, ["dose@0", "dose@0"]).holds is True
    assert same_ranks(run, ["dose@0", "dose@1"]).holds is False
    assert same_ranks(run, ["dose@0", "nobody"]).holds is None
    assert shown(run, ["dose@0"]).holds is True
    assert shown(run, ["dose"]).holds is False


def test_page_is_reproducible_and_names_what_fails(falling, tmp_path):
    record = json.loads((falling / "study.json").read_text())
    record["known"] = [{"case": "same-ranks", "of": ["dose@0", "dose@1"], "why": "<b>never</b>"}]
    record["left_out"] = ["big-data"]
    (falling / "study.json").write_text(json.dumps(record))
    pages = [write_study_page(falling, tmp_path / name / "trial.md") for name in ("a", "b")]
    assert [p.name for p in pages[0]] == ["trial.md", "trial-curve.png", "trial-gains.csv"]
    for one, other in zip(*pages, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text = pages[0][0].read_text(encoding="utf-8")
    assert "**does not hold**: &lt;b&gt;never" in text
    assert "left out: big-data" in text


def test_mistakes_are_one_line(falling, tmp_path):
    record = json.loads((falling / "study.json").read_text())
    (falling / "study.json").write_text(json.dumps(record | {"figures": ["curv"]}))
    with pytest.raises(SpecError, match="figure 'curv' is unknown"):
        write_study_page(falling, tmp_path / "trial.md")
    assert not (tmp_path / "trial.md").exists()
    (falling / "study.json").write_text("{}")
    with pytest.raises(StoreError, match="format"):
        load_study_run(falling)
