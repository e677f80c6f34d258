"""Studies of several parts: every part is on the page, headed by what tells it apart."""

from __future__ import annotations

import json

from analysis.studies import page_of
from analysis.studies.figures import forest
from analysis.studies.page import write_page
from analysis.studies.run import load_study_run
from analysis.studies.tables import main
from tests.analysis.synthetic import latent_ranks, write_experiment
from tests.analysis.test_load import mark_code
from tests.analysis.test_studies import write_study


def fresh(tmp_path):
    (tmp_path / "alone").mkdir()
    return tmp_path / "alone"


def paper(tmp_path, **changes):
    """Two data sets, each in a part of its own."""
    for dataset in ("beauty", "movies"):
        write_experiment(
            tmp_path, latent_ranks(60, {"kd": 0.8}), datasets=[dataset], seeds=(1, 2), name=f"on-{dataset}"
        )
    parts = [{"x": x, "folder": f"../on-{x}"} for x in ("beauty", "movies")]
    home = write_study(tmp_path, {"unused": 0.0}, [])
    record = json.loads((home / "study.json").read_text()) | {"parts": parts}
    (home / "study.json").write_text(json.dumps(record | changes))
    return load_study_run(home)


def heads_of(figure):
    return [t.get_text() for t in figure.axes[0].texts if t.get_weight() == "bold"]


def test_a_forest_shows_every_part(tmp_path):
    run = paper(tmp_path)
    figure = forest(run)
    assert heads_of(figure)[:2] == ["SASRec on beauty", "SASRec on movies"]
    assert len(figure.axes[0].get_yticks()) == len(run.gains) == 2


def test_parts_of_one_data_set_are_told_apart_in_a_forest(tmp_path):
    run = load_study_run(write_study(tmp_path, {}, [], [(x, {"kd": 0.3}) for x in (1, 2)]))
    assert heads_of(forest(run))[:2] == ["SASRec on tiny (1)", "SASRec on tiny (2)"]
    alone = load_study_run(write_study(fresh(tmp_path), {}, [], [(1, {"kd": 0.3})]))
    assert heads_of(forest(alone))[:1] == ["SASRec"]


def test_the_main_table_has_the_rows_of_every_part(tmp_path):
    run = paper(tmp_path)
    table = main(run)
    assert [row[0].text for row in table.rows] == ["beauty", "beauty", "movies", "movies"]
    assert table.columns[0].name == "Dataset"
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1
    assert list(table.frame["dataset"]) == ["beauty", "beauty", "movies", "movies"]
    assert "beauty: 60 users" in table.caption
    assert "movies: 60 users" in table.caption
    assert table.groups == (0, 2)


def test_parts_of_one_data_set_are_told_apart_in_the_main_table(tmp_path):
    run = load_study_run(write_study(tmp_path, {}, [], [(x, {"kd": 0.3}) for x in (1, 2)]))
    table = main(run)
    assert [row[0].text for row in table.rows] == ["tiny (1)"] * 2 + ["tiny (2)"] * 2
    assert [c.text for c in table.rows[1]][-3:] != [c.text for c in table.rows[3]][-3:]
    alone = load_study_run(write_study(fresh(tmp_path), {}, [], [(1, {"kd": 0.3})]))
    assert main(alone).columns[0].name == "Backbone"


def only_part(tmp_path, x, **changes):
    """A study of which only the part at one place was run."""
    run = load_study_run(write_study(tmp_path, {}, [], [(x, {"kd": 0.5})], **changes))
    return run.directory


def test_cold_start_without_newcomers_has_a_page(tmp_path):
    changes = {"figures": ["revealed"], "tables": ["gains", "never-seen", "history", "items"]}
    changes["known"] = [{"case": "revealed", "of": [], "why": "newcomers reveal k"}]
    home = only_part(tmp_path, "everybody", **changes)
    write_page(home, tmp_path / "page.md", page_of("cold_start"))
    text = (tmp_path / "page.md").read_text()
    assert "## Table: never-seen\n\nEmpty: none of its runs" in text
    assert "## Table: history\n\n**" in text
    assert "Nothing can be compared yet" in text


def test_cold_start_with_newcomers_alone_has_a_page(tmp_path):
    changes = {"figures": ["revealed"], "tables": ["never-seen", "history", "items"]}
    home = only_part(tmp_path, "never seen", **changes)
    write_page(home, tmp_path / "page.md", page_of("cold_start"))
    text = (tmp_path / "page.md").read_text()
    for name in ("history", "items"):
        assert f"## Table: {name}\n\nEmpty: none of its runs" in text


def test_the_main_table_of_a_study_spells_out_its_marks(tmp_path):
    run = paper(tmp_path)
    path = next(p for p in (tmp_path / "runs").iterdir() if "movies" in p.name and "kd" in p.name)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["diagnostics"] = {"collapse": ["student: rank 1"]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    table = main(load_study_run(run.directory))
    assert [row[2].text for row in table.rows] == ["plain", "kd", "plain", "kd \u00a7"]
    assert table.notes == ("\u00a7 the distillation of a run collapsed: its profiles taught nothing",)
    assert main(run).notes == ()


def test_different_code_is_told_once_for_all_parts(tmp_path):
    """Also where each part is of one version and only together they are of several."""
    home = write_study(tmp_path, {}, [], [(x, {"kd": 0.3}) for x in (1, 2, 3)])
    for number in range(3):
        for place, path in enumerate(sorted((tmp_path / f"part{number}" / "runs").iterdir())):
            mark_code(path, "b" if number == 2 else "a" if place else "b")
    told = [text for text in load_study_run(home).problems if "different code" in text]
    assert len(told) == 1
    assert told[0].startswith("different code: the runs on tiny come from 2 versions of it")
    for number in range(3):
        for path in (tmp_path / f"part{number}" / "runs").iterdir():
            mark_code(path, f"{number}")
    (told,) = [text for text in load_study_run(home).problems if "different code" in text]
    assert "come from 3 versions" in told
