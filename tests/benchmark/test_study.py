"""Studies: the YAML that becomes experiments, and one study end to end through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.study.load import load_study, names
from recbole_kd.errors import SpecError, UserError


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", names())
def test_every_study_resolves(name, monkeypatch, tmp_path):
    """Variants, places, steps and kinds of every shipped study exist; smoke is the smaller one."""
    from analysis.studies import page_of
    from analysis.studies.figures import FIGURES
    from analysis.studies.known import CHECKS
    from analysis.studies.tables import TABLES

    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    own, sizes = page_of(name), []
    for smoke in (True, False):
        study = load_study(name, smoke=smoke)
        assert set(study.spec.figures) <= set(FIGURES) | set(own.figures)
        assert set(study.spec.tables) <= set(TABLES) | set(own.tables)
        for known in study.spec.known or []:
            assert known.case in set(CHECKS) | set(own.known)
        sizes.append(len({c.cell for part in study.parts for c in part.experiment.cells}))
        assert study.folder.endswith("-smoke") == smoke
    assert 0 < sizes[0] <= sizes[1]


@pytest.fixture
def write_study(place: Path):
    """Write ``study_trial.yaml``: the small experiment with a section ``study``."""

    def write(study: dict, **changes: object) -> Path:
        data = yaml.safe_load((place / "properties" / "experiment" / "small.yaml").read_text())
        data.pop("experiment")
        base = {"question": "Wide?", "figures": ["curve"], "tables": ["gains"], "smoke": {"seeds": [1]}}
        data |= {"study": base | study, **changes}
        path = place / "properties" / "experiment" / "study_trial.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


def test_series_and_parts_become_cells(write_study):
    series = {"width": {"x": [8, 16], "also": {"wide": 12}, "variant": {"hparams": {"inner_size": "$x"}}}}
    parts = [{"x": [4, 6], "over": {"dataset": {"max_item_list_length": "$x"}}}]
    write_study({"series": series, "parts": parts, "x": {"label": "width"}})
    study = load_study("trial")
    assert [part.x for part in study.parts] == [4, 6]
    assert [p.experiment.name for p in study.parts] == ["study_trial-x=4", "study_trial-x=6"]
    for part in study.parts:
        cells = part.experiment.cells
        assert {c.spec.dataset.max_item_list_length for c in cells} == {part.x}
        inner = {c.label.variant: c.spec.student.hparams["inner_size"] for c in cells}
        assert inner["width@8"] == 8
        assert inner["width@16"] == 16
    assert {(p["variant"], p["x"]) for p in study.points} == {("width@8", 8), ("width@16", 16), ("wide", 12)}
    assert {c.label.seed for p in load_study("trial", smoke=True).parts for c in p.experiment.cells} == {1}


def test_keep_leaves_out(write_study):
    series = {n: {"x": [8], "variant": {"hparams": {"inner_size": "$x"}}} for n in ("a", "b")}
    smoke = {"study": {"keep": {"series": ["b"], "variants": ["plain"]}}}
    write_study({"series": series, "smoke": smoke})
    full, cut = load_study("trial"), load_study("trial", smoke=True)
    variants = [{c.label.variant for p in s.parts for c in p.experiment.cells} for s in (full, cut)]
    assert variants == [{"plain", "wide", "a@8", "b@8"}, {"plain", "b@8"}]


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"figurs": ["curve"]}, "did you mean 'figures'"),
        ({"after": {"last_k": {"of": [1]}}}, "did you mean 'last-k'"),
        ({"needs": {"wid": {"variable": "KEY"}}}, "'wid' is no variant; did you mean 'wide'?"),
        ({"needs": {"wide": {"varable": "KEY"}}}, "did you mean 'variable'?"),
        ({"series": {"a": {"x": [1], "also": {"nobody": 0}, "variant": {}}}}, "'nobody', which is no"),
    ],
)
def test_mistakes_are_named(write_study, study, message):
    write_study(study)
    with pytest.raises(SpecError, match=re.escape(message)):
        load_study("trial")


def test_weights_are_the_grounding_of_what_a_user_was_given(write_study, place):
    """Of a mixed-up profile the score is that of somebody else's text, read as a profile of this user."""
    import pandas as pd

    from profiles.audit import Auditor
    from profiles.build import make_author, write_texts
    from profiles.history import train_histories
    from profiles.placebo import shuffled
    from profiles.spec import load_teacher_spec
    from profiles.store import Store
    from recbole_kd.benchmark import rooms
    from recbole_kd.data.load import load_dataset, load_item_texts
    from recbole_kd.data.profile_table import ProfileRows
    from recbole_kd.data.split import make_split

    items = [f"i{i}\tTitle {i}\tGenre{i % 12}" for i in range(1, 26)]
    head = "item_id:token\ttitle:token_seq\tgenre:token_seq"
    (place / "data" / "tiny" / "tiny.item").write_text("\n".join([head, *items]) + "\n")
    encoder = {"kind": "tfidf", "model": None, "pooling": None, "max_tokens": None, "dimension": 4}
    damage = [{"kind": "shuffle", "rate": "$x", "seed": 7}]
    teacher = {"teacher": "template", "profile": {"encoder": encoder, "corruption": damage}}
    write_study({"series": {"mix": {"x": [0.5, 1], "weighted": True, "variant": teacher}}})
    results = place / "results"
    study = load_study("trial", results=results)
    cells = {c.label.variant: c.spec for c in study.parts[0].experiment.cells}
    assert cells["plain"].student.distill is None
    files = {name: cells[name].student.distill.confidence for name in ("mix@0.5", "mix@1")}
    assert len(set(files.values())) == 2
    spec, _ = rooms.dataset("tiny")
    split, texts = make_split(load_dataset(spec), spec.split), load_item_texts(spec)
    plain = load_teacher_spec("template", {"encoder": encoder})
    with Store(place / "other.sqlite") as store:
        written = {p.user: p.text for p in write_texts(plain, split, texts, store, domain="movies").profiles}
    auditor = Auditor(make_author(plain, split, texts, "movies").statistician, train_histories(split))
    users = list(written)
    blank = ProfileRows.build(users, [0] * len(users), [""] * len(users), [[0.0]] * len(users))
    giver = dict(zip(users, shuffled(blank, 7).source_user, strict=True))
    found = pd.read_parquet(files["mix@1"]).set_index("user")["grounding"]
    assert len(found) == 30
    for user in users:
        assert found[user] == auditor.score(user, written[giver[user]]).grounding
    half = pd.read_parquet(files["mix@0.5"])["grounding"]
    assert half.mean() > found.mean() + 0.1
    # What is not wanted now and has no weights yet is put off, not run under another address.
    unweighed = load_study("trial", results=place / "late", weigh=False)
    assert unweighed.pending == ("mix@0.5", "mix@1")
    assert {c.label.variant for c in unweighed.cells().values()} == {"plain", "wide"}
    late = load_study("trial", results=place / "late", only="variant=plain,wide,mix@1")
    assert late.pending == ()
    assert late.planned == len(study.cells())
    variants = {c.label.variant: c.cell for c in late.parts[0].experiment.cells if c.label.seed == 1}
    assert set(variants) == {"plain", "wide", "mix@1"}
    assert variants["mix@1"] in {c.cell for c in study.parts[0].experiment.cells}
    # Cells differ by the content of the weights, not by where the file lies.
    elsewhere = load_study("trial", results=place / "elsewhere").parts[0].experiment.cells
    assert [c.cell for c in elsewhere] == [c.cell for c in study.parts[0].experiment.cells]


def test_plan_and_a_part_of_a_study(write_study, place, capsys):
    parts = [{"x": [4, 6], "over": {"dataset": {"max_item_list_length": "$x"}}}]
    write_study({"parts": parts, "x": {"label": "length"}}, seeds=[1, 2])
    results = place / "results"
    assert call("study", "trial", "--plan", "--results", results) == 0
    printed = capsys.readouterr().out
    assert "trial, length: 4" in printed
    assert "trial, length: 6" in printed
    assert not results.exists()
    whole = load_study("trial")
    seed = whole.narrowed("seed=1")
    assert {c.label.seed for c in seed.cells().values()} == {1}
    assert len(seed.cells()) * 2 == len(whole.cells()) == seed.planned
    assert seed.record()["command"].endswith("study trial --only seed=1")
    short = whole.narrowed("part=4 & seed=1")
    assert [part.x for part in short.parts] == [4]
    assert set(short.cells()) == {c.cell for c in seed.parts[0].experiment.cells}
    assert [part.x for part in whole.narrowed("part!=4").parts] == [6]
    with pytest.raises(UserError, match="leaves out the baseline 'plain' at 4"):
        whole.narrowed("variant=wide")
    with pytest.raises(UserError, match="leaves no cell"):
        whole.narrowed("seed=7")


def test_a_borrowed_place_is_no_line_by_itself(write_study):
    series = {n: {"x": [8], "also": {"wide": 0}, "variant": {"hparams": {"inner_size": "$x"}}} for n in "ab"}
    write_study({"series": series, "x": {"label": "width"}})
    part = load_study("trial", only="variant=plain,wide,a@*")
    assert {(p["series"], p["variant"]) for p in part.points} == {("a", "a@8"), ("a", "wide")}


def test_a_part_of_a_study_says_so(write_study, place):
    write_study({}, seeds=[1, 2])
    results = place / "results"
    call("study", "trial", "--only", "seed=1", "-j", 0, "--quiet", "--results", results)
    text = (results / "study_trial" / "trial.md").read_text(encoding="utf-8")
    assert "A part of the study: 2 of its 4 runs, `seed=1`" in text
    assert "Unfinished" not in text
    assert "study trial --only seed=1\n```" in text
    assert not (place / "docs").exists()


def test_a_study_is_not_run_as_an_experiment(write_study, capsys):
    path = write_study({})
    assert call("plan", path) == 2
    assert "run_benchmark.py study trial" in capsys.readouterr().err
    assert call("study", "trail") == 2
    assert "did you mean 'trial'" in capsys.readouterr().err


def test_hallucination_end_to_end(tmp_path, monkeypatch, repo_root, capsys):
    """The smoke cut trains, writes its page below the results, and the known cases hold."""
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    assert call("study", "hallucination", "--smoke", "-j", 0, "--quiet", "--results", results) == 0
    page = results / "study_hallucination-smoke" / "hallucination.md"
    assert str(page) in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()
    text = page.read_text(encoding="utf-8")
    for heading in ("Question", "Answer", "Protocol", "Figure: ", "Table: ", "Known cases", "Run it"):
        assert f"## {heading}" in text
    answer = text.split("## Answer")[1].split("## ")[0].strip().splitlines()
    assert [line[:3] for line in answer] == ["1. ", "2. ", "3. "]
    assert "does not hold" not in text
    assert "not checked" not in text
    assert re.search(r"Manifest hash: `[0-9a-f]{16}`", text)
    for link in re.findall(r"\]\(([\w.@=-]+)\)", text):
        assert (page.parent / link).is_file()
    before = page.read_bytes()
    assert call("study", "hallucination", "--smoke", "--page-only", "--results", results) == 0
    assert page.read_bytes() == before
    # The page is of the runs that the YAML asks for today, whatever it asked for when it was run.
    record = json.loads((page.parent / "experiment.json").read_text())
    of_old = {**record["cells"][0], "cell": "0" * 16, "run": "../runs/" + "0" * 16}
    stale = {**record, "cells": [of_old, *record["cells"][1:]]}
    (page.parent / "experiment.json").write_text(json.dumps(stale))
    assert call("study", "hallucination", "--smoke", "--page-only", "--results", results) == 0
    assert page.read_bytes() == before
    # A run that is lost is said; the page of an unfinished study never goes to docs.
    (results / "runs" / record["cells"][0]["cell"] / "manifest.json").unlink()
    assert call("study", "hallucination", "--smoke", "--page-only", "--results", results) == 0
    assert "**Unfinished:" in page.read_text(encoding="utf-8")
