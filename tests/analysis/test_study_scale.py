"""Renderers of the studies of size, objectives and the paper, on made-up runs with known answers."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from synthetic import latent_ranks, write_experiment

from analysis.studies import write_study_page
from analysis.studies.data_scale import more_data, same_targets
from analysis.studies.objectives_and_fusion import prediction
from analysis.studies.paper import published_table, side_by_side
from analysis.studies.run import StudyRun, load_study_run
from analysis.studies.student_size import by_parameters, depth_of, same_size
from analysis.studies.transfer import methods_of, predictors, spearman
from recbole_kd.benchmark.study.load import load_study
from recbole_kd.errors import SpecError


def edit(home: Path, change) -> None:
    """Lay what ``change(label)`` returns over every manifest of an experiment."""
    for path in (home.parent / "runs").iterdir():
        manifest = json.loads((path / "manifest.json").read_text())
        label = manifest["label"]
        (path / "manifest.json").write_text(json.dumps(manifest | change(label)))


def study(name: str, home: Path, parts: list[dict] | None = None, **changes) -> StudyRun:
    """The shipped YAML's record over made-up experiments."""
    record = load_study(name).record() | {"parts": parts or [{"x": None, "folder": "."}], "points": []}
    (home / "study.json").write_text(json.dumps(record | changes))
    return load_study_run(home)


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "none"))


def test_shares_are_compared_on_the_same_targets(tmp_path: Path):
    homes = {}
    for x, n_users, seen in ((0.5, 60, 300), (1, 60, 600), (2, 59, 500)):
        homes[x] = write_experiment(tmp_path / f"{x}", latent_ranks(n_users), seeds=(0,))
        edit(homes[x], lambda _, seen=seen: {"counts": {"train_interactions": seen}})
    good = [{"x": x, "folder": f"../../{x}/trial"} for x in (0.5, 1)]
    run = study("data_scale", homes[1], good)
    assert same_targets(run, ["plain"]).holds
    found = more_data(run, ["plain"])
    assert found.holds
    assert "300, 600" in found.found
    worse = study("data_scale", homes[1], [*good, {"x": 2, "folder": "../../2/trial"}])
    assert same_targets(worse, ["plain"]).holds is False
    assert more_data(worse, ["plain"]).holds is False
    assert same_targets(study("data_scale", homes[1], good[:1]), ["plain"]).holds is None


def test_gains_stand_at_the_size_of_the_student(tmp_path: Path):
    parts = []
    for d, layers in ((16, 1), (32, 1), (64, 1), (16, 2)):
        x = f"{d} x {layers}"
        home = write_experiment(tmp_path / x.replace(" ", ""), latent_ranks(80, {"kd": d / 64}), seeds=(0, 1))
        edit(home, lambda _, n=1000 * d * layers: {"n_parameters": n})
        for path in (home.parent / "runs").iterdir():
            (path / "spec.yaml").write_text(yaml.safe_dump({"student": {"hparams": {"n_layers": layers}}}))
        parts.append({"x": x, "folder": f"../../{x.replace(' ', '')}/trial"})
    run = study("student_size", home, parts)
    gains = by_parameters(run).gains
    assert sorted(g.x for g in gains) == [16_000, 32_000, 32_000, 64_000]
    assert sorted(depth_of(g) for g in gains) == [1, 1, 1, 2]
    # Placing them changes no number and no correction.
    assert {id(g.comparison) for g in gains} == {id(g.comparison) for g in run.gains}
    assert same_size(run, ["kd"]).holds
    page = write_study_page(home, home / "student_size.md")[0].read_text(encoding="utf-8")
    assert "along parameters" in page
    edit(home, lambda label: {"n_parameters": 7 if label["variant"] == "kd" else 8})
    assert same_size(study("student_size", home, parts), ["kd"]).holds is False


def test_spearman_against_a_count_of_pairs():
    """rho without ties is 1 - 6 sum d^2 / (n (n^2 - 1)); its interval holds it and covers the truth."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 9))
    found = spearman(x, y, resamples=500, seed=0)
    assert found is not None
    d = np.argsort(np.argsort(x)) - np.argsort(np.argsort(y))
    assert found.estimate == pytest.approx(1 - 6 * (d**2).sum() / (9 * 80))
    assert found.low <= found.estimate <= found.high
    assert found.p == pytest.approx(stats.spearmanr(x, y).pvalue)
    assert spearman(x[:4], y[:4], resamples=99, seed=0) is None
    assert spearman(np.ones(9), y, resamples=99, seed=0) is None
    perfect = spearman(x, 2 * x, resamples=99, seed=0)
    assert perfect is not None
    assert perfect.estimate == pytest.approx(1)
    # Exact p of all orders: the t approximation is near it for nine points.
    rho = [np.corrcoef(np.arange(7), p)[0, 1] for p in permutations(range(7))]
    small = spearman(np.arange(7.0), np.array([0.0, 2, 1, 3, 5, 4, 6]), resamples=99, seed=0)
    assert small is not None
    assert small.p == pytest.approx(np.mean(np.abs(rho) >= small.estimate - 1e-9), abs=0.01)


def test_the_diagnostic_that_goes_with_the_gain_is_named(tmp_path: Path):
    """Six methods with rising gains; decoded@10 rises with them, cka is constant, probe missing."""
    gains = {f"kd-{n}": 0.25 * n for n in range(7)} | {"kd-shuffled": 0.0}
    home = write_experiment(tmp_path, latent_ranks(400, gains), variants=("plain", *gains), seeds=(0, 1))

    def diagnosed(label: dict) -> dict:
        if label["variant"] == "plain":
            return {"diagnostics": None}
        level = 1e9 if label["variant"] == "kd-shuffled" else gains[label["variant"]]
        own = {
            "decoded@10": level + 0.001 * label["seed"],
            "cka": 0.5,
            "overlap@10": None,
            "retrieval@10": -level,
        }
        return {"diagnostics": {"distilled": own, "final": {}}}

    edit(home, diagnosed)
    run = study("objectives_and_fusion", home)
    methods = {m.gain.comparison.variant: m for m in methods_of(run)}
    assert methods["kd-4"].diagnostics["decoded@10"] == pytest.approx(1.0005)
    assert [m for m in methods.values() if m.is_placebo] == [methods["kd-shuffled"]]
    found = {p.name: p for p in predictors(run)}
    order = [methods[f"kd-{n}"].gain.result.estimate for n in range(7)]
    assert found["decoded@10"].n == 7  # the placebo, whose diagnostic is far out, is not among them
    assert found["decoded@10"].result.estimate == pytest.approx(stats.spearmanr(range(7), order).statistic)
    assert found["retrieval@10"].result.estimate == pytest.approx(-found["decoded@10"].result.estimate)
    assert found["cka"].result is None
    assert (found["probe"].n, found["probe"].result) == (0, None)
    # Holm over all six, of which two could be made: a missing one counts as p = 1.
    assert found["decoded@10"].result.p_corrected == pytest.approx(min(1, 6 * found["decoded@10"].result.p))
    assert "decoded@10" in prediction(run) or "retrieval@10" in prediction(run)
    page = write_study_page(home, home / "objectives_and_fusion.md")[0].read_text(encoding="utf-8")
    assert page.count("too few methods") == 4


def test_published_numbers_stand_beside_ours_and_in_no_test(tmp_path: Path, repo_root: Path):
    home = write_experiment(
        tmp_path,
        latent_ranks(200, {"kd": 0.5}),
        datasets=("amazon-beauty", "ml-100k"),
        backbones=("SASRec", "GRU4Rec"),
        metrics=("NDCG@10", "Recall@10"),
        seeds=(0, 1, 2),
    )
    run = study("paper", home)
    table = published_table(run)
    assert len(table.rows) == 16 + 6  # published, then what only we have: 2 x 2 x 2 less 2 that stand beside
    text = {tuple(c.text for c in row[:3]): [c.text for c in row[3:]] for row in table.rows[:16]}
    row = text["Beauty", "SASRec", "NDCG@10"]
    assert row[:3] == ["0.0106 ± 0.0004", "0.0111 ± 0.0002", "+4.7 %"]
    assert row[3] == "amazon-beauty"
    assert text["Kion", "SASRec", "NDCG@10"][3] == "cannot be had"
    assert text["ML-20M", "SASRec", "NDCG@10"][3] == "ml-1m: not run"
    ranks = np.stack(
        [
            p.rank[
                [
                    p.cells.index(c)
                    for c in run.parts[0].results.cells("amazon-beauty", "SASRec", "kd").values()
                ]
            ]
            for p in [run.parts[0].results.panels["amazon-beauty"]]
        ]
    )[0]
    ndcg = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0).mean(axis=1)
    assert row[5] == f"{ndcg.mean():.4f} ± {ndcg.std(ddof=1):.4f}"
    # The family is ours alone.
    assert {g.result.family for g in run.gains} == {"4 comparisons with 'plain' on NDCG@10"}
    page = write_study_page(home, home / "paper.md")[0].read_text(encoding="utf-8")
    assert "16 of 16 means above the baseline" in page
    bad = json.loads((home / "study.json").read_text())
    bad["settings"]["published"]["rows"][0]["bse"] = 1
    (home / "study.json").write_text(json.dumps(bad))
    with pytest.raises(SpecError, match=r"published\.rows\.0\.bse"):
        published_table(load_study_run(home))


def test_the_placebo_is_not_counted_as_a_gain_of_ours(tmp_path: Path, repo_root: Path):
    write_experiment(
        tmp_path,
        latent_ranks(200, {"kd": -1.0, "kd-shuffled": 1.0}),
        variants=("plain", "kd", "kd-shuffled"),
        datasets=("ml-100k",),
        backbones=("GRU4Rec",),
        seeds=(0, 1),
    )
    run = study("paper", tmp_path / "trial")
    assert sorted(g.result.estimate > 0 for g in run.gains) == [False, True]
    assert "of our 1 comparison on NDCG@10, without the placebo, 0 are above it" in side_by_side(run)


def test_variants_without_what_they_need_are_left_out_and_named(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    without = load_study("encoders_and_writers")
    assert "kd-openai: environment variable OPENAI_API_KEY is not set" in without.left_out
    monkeypatch.setenv("OPENAI_API_KEY", "no key at all")
    (tmp_path / "models" / "larger-encoder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with_all = load_study("encoders_and_writers")
    names = [{c.label.variant for p in s.parts for c in p.experiment.cells} for s in (without, with_all)]
    assert names[1] - names[0] >= {"kd-openai", "kd-larger", "kd-larger-smollm2"}
    assert not [text for text in with_all.left_out if "OPENAI" in text or "larger" in text]
