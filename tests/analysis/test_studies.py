"""Studies: one family over all parts, trends, answers by rule, known cases that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.all_tests import evidence
from analysis.comparison import compare, seed_variance
from analysis.figures.style import few_places
from analysis.load import load_results
from analysis.stats.result import TestResult
from analysis.stats.twolevel import SeedVariance, two_way
from analysis.studies import hallucination, write_study_page
from analysis.studies.dose import isotonic_dose, lost_dose
from analysis.studies.figures import curve
from analysis.studies.gains import layout_of, trends
from analysis.studies.hallucination import Rescue, lost_table
from analysis.studies.hallucination import answer as hallucination_answer
from analysis.studies.known import same_ranks, shown
from analysis.studies.page import StudyPage, write_page
from analysis.studies.refresh import Policy, best, difference, policies
from analysis.studies.refresh import answer as refresh_answer
from analysis.studies.run import load_study_run
from analysis.studies.sentences import answer, could_have_seen
from analysis.studies.tables import gains
from analysis.values import UserValues
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


def pooled_error(gain) -> float:
    """Standard error with the mean seed variance of all differences there, if that is larger, by hand."""
    results, c = gain.part.results, gain.comparison
    values = UserValues(results.panels[c.dataset], c.metric)
    means = {m[2]: values.of(list(results.cells(*m).values())).mean(axis=1) for m in results.methods()}
    others = np.array([mean - means[c.baseline] for variant, mean in means.items() if variant != c.baseline])
    variance = others.var(axis=1, ddof=1).mean()
    d = layout_of(gain.part, c).differences
    # Degrees of freedom do not enter the error.
    return two_way(d, SeedVariance(variance, 2.0)).error


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


def test_a_table_without_rows_is_said_to_be_empty(falling, tmp_path):
    def rescue(run):
        return replace(gains(run), rows=(), groups=())

    record = json.loads((falling / "study.json").read_text())
    (falling / "study.json").write_text(json.dumps(record | {"tables": ["gains", "rescue"]}))
    own = StudyPage(answer=answer, tables={"rescue": rescue})
    paths = write_page(falling, tmp_path / "page.md", own)
    text = (tmp_path / "page.md").read_text()
    assert "## Table: rescue\n\nEmpty: none of its runs" in text
    assert [path.name for path in paths if path.suffix in (".csv", ".tex")] == [
        "page-gains.csv",
        "page-gains.tex",
    ]
    assert "| Dataset |" in text.partition("## Table: rescue")[0]
    assert "| Dataset |" not in text.partition("## Table: rescue")[2]


def test_named_places_come_before_numbers(tmp_path):
    parts = [(x, {"kd": 0.1, "other": 0.2}) for x in ("everybody", "never seen", 3, 1, 2)]
    frame = gains(load_study_run(write_study(tmp_path, {}, [], parts))).frame
    assert list(frame["x"]) == 2 * ["everybody", "never seen", 1, 2, 3]


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
    """numpy's weighted polynomial fit with the errors of the gains' own tests, at places whose users differ.

    These know the seed variance from all methods of a place; two seeds of one method say next to nothing.
    """
    parts = [
        (x, {"kd": g, "other": h, "third": 0.2})
        for x, g, h in ((1.0, 0.1, 0.3), (2.0, 0.4, 0.0), (4.0, 0.5, 0.2), (8.0, 1.0, 0.1))
    ]
    run = load_study_run(write_study(tmp_path, {}, [], parts))
    monkeypatch.setattr("analysis.studies.gains._within", lambda *arguments: None)
    trend = next(t for t in trends(run) if t.line[2] == "kd")
    own = [g for g in run.gains if g.series == "kd"]
    x, y = np.array([1, 2, 4, 8]), np.array([g.result.estimate for g in own])
    error = np.array([pooled_error(g) for g in own])
    everybody = [
        (pooled_error(g), two_way(layout_of(g.part, g.comparison).differences).error) for g in run.gains
    ]
    assert max(pooled / alone for pooled, alone in everybody) > 1.02  # or pooling changes nothing here
    slope, covariance = np.polyfit(x, y, 1, w=1 / error, cov="unscaled")
    assert trend.result.estimate == pytest.approx(7 * slope[0])
    assert trend.result.p == pytest.approx(2 * stats.norm.sf(slope[0] / np.sqrt(covariance[0, 0])))


@pytest.mark.parametrize(
    ("gains", "floor", "share", "dose"),
    [
        ([4, 3, 1, 0], 0, 0.5, 0.375),  # level 2, between 3 at .25 and 1 at .5
        ([4, 2, 3, 0], 0, 0.5, 0.6),  # 2 and 3 pool to 2.5; level 2, between 2.5 at .5 and 0 at 1
        ([4, 3, 1, 0], 2, 0.5, 0.25),  # halfway to a placebo that gains 2
        ([4, 0, 0, 0], 0, 1.0, 0.25),
        ([4, 4, 3, 3], 0, 0.5, np.inf),
        ([-1, -1, -1, -1], 0, 0.5, np.nan),
    ],
)
def test_isotonic_dose_by_hand(gains, floor, share, dose):
    found = isotonic_dose(np.array([0, 0.25, 0.5, 1.0]), np.array(gains, float), floor, share)
    assert found == pytest.approx(dose, nan_ok=True)


def test_lost_dose_finds_the_dose_and_says_where_there_is_none(tmp_path, falling):
    """The gain was made to fall about linearly to 0; without a gain there is no dose."""
    own = load_study_run(falling).gains
    found = lost_dose(own, None, share=0.5)
    assert found.low <= found.dose <= found.high
    assert 0.3 < found.dose < 0.7
    again = lost_dose(own, None, share=0.5)
    assert (again.low, again.high) == (found.low, found.high)
    sure = lost_dose(own, None, share=0.9)
    assert found.dose < sure.dose
    # Measured down to a placebo that is as good as dose .5, less is to be lost: sooner.
    assert lost_dose(own, own[1], share=0.5).dose < found.dose
    assert lost_dose(own[:2], None, share=0.5) is None
    (tmp_path / "null").mkdir()
    null = write_study(tmp_path / "null", {f"dose@{x:g}": 0.0 for x in (0, 0.5, 1)}, doses(0, 0.5, 1))
    none = lost_dose(load_study_run(null).gains, None, share=0.5)
    assert np.isnan(none.dose)
    assert none.nothing > 0.025


@pytest.mark.slow
def test_interval_of_the_lost_dose_covers(tmp_path):
    """Known half-dose (.5 by symmetry of the latent gains around it): the 95 % interval holds it mostly."""
    hits = []
    for stream in range(40):
        rng = np.random.default_rng(stream)
        doses_, user = np.array([0, 0.25, 0.5, 0.75, 1.0]), rng.normal(0, 0.3, (1, 400))
        true = 0.1 * (1 - doses_)[:, None, None]
        values = true + user + rng.normal(0, 0.3, (5, 3, 400))
        found = _lost(values, doses_)
        hits.append(found.low <= 0.5 <= found.high)
    assert np.mean(hits) >= 0.85


def _lost(values, places):
    """`lost_dose` of differences [K, S, U] without files."""
    from types import SimpleNamespace

    from analysis.studies import dose as module
    from analysis.values import Layout

    n = np.arange(values.shape[2])
    layouts = {x: Layout(v, np.zeros_like(v), n, n, ((), ())) for x, v in zip(places, values, strict=True)}
    own = [SimpleNamespace(x=x, part=None, comparison=x) for x in places]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "layout_of", lambda part, x: layouts[x])
        return module.lost_dose(own, None, share=0.5, n_resamples=300)


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


def test_one_seed_is_said_with_the_answer(falling):
    run = load_study_run(falling)
    several = replace(run.gains[0].result, n_seeds=3)
    assert "One seed" not in could_have_seen(run)
    comparison = replace(run.gains[0].comparison, result=replace(several, n_seeds=1))
    alone = replace(run.gains[0], comparison=comparison)
    assert "One seed: intervals and p cover which users" in could_have_seen(run, [alone])


def test_a_policy_that_loses_is_no_cheap_gain_and_the_placebo_is_no_policy():
    def policy(name, calls, estimate, p):
        result = TestResult("z", "users", estimate, 100, 1, estimate - 0.01, estimate + 0.01, p_corrected=p)
        return Policy(("tiny", "SASRec", name), calls, 100, 1.0, result)

    run = SimpleNamespace(parts=[1, 2], baseline="plain", metric="NDCG@10", settings={"placebo": "shuffled"})
    wrong, loses = policy("shuffled", 10, 0.05, 0.001), policy("never", 100, -0.05, 0.001)
    gains, costly = policy("drift", 200, 0.05, 0.001), policy("every@1", 900, 0.06, 0.001)
    text = best(run, [wrong, loses, gains, costly])
    assert text.startswith("3 of 3 policies differ from 'plain', 2 of them upwards")
    assert text.endswith("the cheapest that gains is drift with 200 profiles.")
    text = best(run, [wrong, loses])
    assert text.startswith("1 of 1 policies differ from 'plain', 0 of them upwards")
    assert "cheapest" not in text
    assert best(run, [wrong]).startswith("No policy but the placebo")


@pytest.mark.parametrize(
    ("places", "few"),
    [((0.5, 0.6, 0.7, 0.8), True), ((1, 2, 3, 5, 10), True), ((0, 0.01, 1), False), ((3,), False)],
)
def test_places_are_named_where_their_numbers_have_room(places, few):
    assert few_places(places) is few


def test_a_linear_axis_names_the_places_of_the_study(falling):
    (axes,) = curve(load_study_run(falling)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1"]


def test_a_significant_point_is_seen_filled(falling):
    """matplotlib draws the white markers of an errorbar above later points of the same order."""
    run = load_study_run(falling)
    (axes,) = curve(run).axes
    white = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    filled = [line for line in axes.lines if line.get_marker() == "o" and line not in white]
    (drawn,) = [line for line in filled if len(line.get_xdata())]
    assert len(drawn.get_xdata()) == sum(g.result.p_corrected < 0.05 for g in run.gains) > 0
    assert drawn.get_zorder() > max(line.get_zorder() for line in white)


def test_lines_without_a_place_can_be_told_apart(tmp_path):
    """More of them than the palette has colours."""
    home = write_study(tmp_path, {"dose@0": 0.1, **{f"beside{i}": 0.1 * i for i in range(9)}}, doses(0))
    (axes,) = curve(load_study_run(home)).axes
    looks = [
        (line.get_color(), line.get_linestyle())
        for line in axes.lines
        if "not on this axis" in line.get_label()
    ]
    assert len(looks) == len(set(looks)) == 9


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
    tables = ["trial-gains.csv", "trial-gains.tex"]
    assert [p.name for p in pages[0]] == ["trial.md", "trial-curve.png", *tables]
    drawn = (pages[0][-1]).read_text(encoding="utf-8")
    assert drawn.count(r"\begin{tabular}") == drawn.count(r"\end{tabular}") == 1
    assert drawn.count(r" \\") == 1 + len(gains(load_study_run(falling)).rows)
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


def test_studies_need_neither_torch_nor_recbole():
    code = (
        "import importlib, sys; from analysis.studies import STUDIES, dose;"
        "[importlib.import_module(module) for module in STUDIES.values()];"
        "import numpy; dose.isotonic_dose(numpy.arange(3.0), numpy.array([2.0, 1, 0]), 0.0, 0.5);"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'recbole', 'profiles')];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_what_could_be_seen_is_of_the_test_on_the_page(tmp_path):
    """The smallest effect is t(.975) + t(.80) standard errors of the test, with its degrees of freedom."""
    variants = ["plain", *(f"v{i}" for i in range(6))]
    home = write_study(tmp_path, {}, [], [(None, {"unused": 0.0})])
    write_experiment(
        tmp_path / "part0", latent_ranks(USERS, seed_sd=0.2), variants=variants, seeds=SEEDS, name="trial"
    )
    run = load_study_run(home)
    assert len(run.gains) == 6
    frame = evidence(run.parts[0].results)
    for gain, percent in zip(run.gains, frame["detectable_percent"], strict=True):
        results, c = gain.part.results, gain.comparison
        values = UserValues(results.panels[c.dataset], c.metric)
        pool = seed_variance(results, c.dataset, c.backbone, c.baseline, values)
        anova = two_way(layout_of(gain.part, c).differences, pool)
        assert anova.error == pytest.approx(abs(gain.result.estimate / gain.result.statistic))
        errors = stats.t.ppf(0.975, anova.df) + stats.t.ppf(0.8, anova.df)
        assert gain.detectable == pytest.approx(errors * anova.error, rel=0.1)
        assert percent == pytest.approx(100 * gain.detectable / gain.comparison.baseline_mean)


def test_what_could_be_seen_of_a_policy_is_of_the_mean_over_trainings(tmp_path):
    parts = [(x, {"kd": 0.1, "never": 0.0}) for x in (1, 2, 3, 4)]
    run = load_study_run(write_study(tmp_path, {}, [], parts))
    for part in run.parts:
        own = ({"dataset": "tiny", "variant": v, "calls": 9, "users": 300} for v in ("kd", "never"))
        text = json.dumps([e | {"unseen": 1.0, "cumulative": False} for e in own])
        (part.results.directory / "refresh.json").write_text(text)
    for policy in policies(run):
        error = policy.gain.estimate / policy.gain.statistic
        own = [pooled_error(g) for g in run.gains if g.series == policy.line[2]]
        assert error == pytest.approx(np.sqrt(np.sum(np.square(own))) / 4)
        assert policy.detectable == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error)
        assert policy.detectable < min(g.detectable for g in run.gains)
    fresh = difference(run, "tiny", "SASRec", "kd", "plain")
    (kd,) = [p.gain for p in policies(run) if p.line[2] == "kd"]
    assert (fresh.estimate, fresh.statistic) == pytest.approx((kd.estimate, kd.statistic))
    middle = max(p.detectable for p in policies(run))
    text = refresh_answer(run)[-1]
    assert f"is {middle:.4f} NDCG@10" in text
    assert "mean over 4 trainings" in text
    assert "with 300 users" in text


def test_no_dose_is_stated_down_to_a_placebo_that_was_not_run(falling):
    record = json.loads((falling / "study.json").read_text())
    named = {"settings": {"placebo": "kd-shuffled", "whole": "dose@0"}}
    (falling / "study.json").write_text(json.dumps(record | named))
    run = load_study_run(falling)
    table = lost_table(run)
    assert "down to 'kd-shuffled'" in table.caption
    assert [cell.text for cell in table.rows[0]][-3:] == ["placebo not run", "placebo not run", "\u2013"]
    assert np.isnan(table.frame["half_dose"][0])
    assert "'kd-shuffled' was not run, so the dose of loss is unknown" in hallucination_answer(run)[0]
    # Without a placebo in the study the loss is counted down to 0, as the caption says.
    (falling / "study.json").write_text(json.dumps(record))
    assert "not run" not in lost_table(load_study_run(falling)).rows[0][-3].text


def test_a_dose_at_which_weights_help_is_told_beside_a_mean_in_which_they_do_not(monkeypatch):
    def made(x, estimate, p):
        line = ("tiny", "SASRec", "swap-weighted")
        bounds = {"low": estimate - 0.004, "high": estimate + 0.004, "p": p, "p_corrected": p}
        return Rescue(line, x, TestResult("t", "users", estimate, 300, 1, **bounds))

    run = SimpleNamespace(metric="NDCG@10")
    found = [made(None, 0.001, 0.6), made(0.25, 0.002, 0.4), made(0.5, 0.0084, 0.002)]
    monkeypatch.setattr(hallucination, "rescues", lambda run: found)
    text = hallucination._rescued(run)
    assert text.startswith("in the mean over the doses no effect of weights by grounding is shown (")
    assert "; at dose 0.5 alone there is: swap-weighted" in text
    assert "0.0084" in text
    monkeypatch.setattr(hallucination, "rescues", lambda run: found[:2])
    assert "alone" not in hallucination._rescued(run)
    monkeypatch.setattr(hallucination, "rescues", lambda run: [made(None, 0.009, 0.001)])
    assert hallucination._rescued(run).startswith("in the mean over the doses weights by grounding help (")
