"""Main table: numbers against pandas, partial results, rendering of hostile text."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import latent_ranks, write_experiment, write_run

from analysis.all_tests import dataset_scores
from analysis.comparison import compare, comparison_frame
from analysis.load import Results, load_results
from analysis.table import Cell, Column, Table, latex_escape
from analysis.tables import console_table, main_table, summary_frame
from analysis.write import write_outputs
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.metrics import per_user


def direct_means(results: Results, metric: str) -> pd.DataFrame:
    """Mean and sd over seeds straight from the parquet files."""
    rows = []
    for run in results.runs.itertuples():
        frame = pd.read_parquet(Path(run.path) / "ranks.parquet")
        value = per_user(frame[frame["split"] == "test"]["rank"], metric).mean()
        rows.append({"backbone": run.backbone, "variant": run.variant, "value": value})
    return pd.DataFrame(rows).groupby(["backbone", "variant"])["value"].agg(["mean", "std"])


def test_means_and_deviations(results: Results) -> None:
    expected = direct_means(results, "Recall@10")
    frame = main_table(results).frame.set_index(["backbone", "variant"])
    for key, row in expected.iterrows():
        assert frame.loc[key, "Recall@10_mean"] == pytest.approx(row["mean"])
        assert frame.loc[key, "Recall@10_sd"] == pytest.approx(row["std"])
    long = summary_frame(results).set_index(["backbone", "variant", "metric"])
    assert long.loc[("SASRec", "plain", "Recall@10"), "mean"] == pytest.approx(
        expected.loc[("SASRec", "plain"), "mean"]
    )


def test_a_collapsed_run_is_marked_and_explained(results: Results) -> None:
    cell = results.cells("toy", "SASRec", "kd-llm")[1]
    found = {"collapsed": True, "collapse": ["projected profiles: variance fell to 1e-04 of its start"]}
    path = Path(results.runs.set_index("cell").loc[cell, "path"]) / "manifest.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(before), "diagnostics": found}))
        text = main_table(load_results(results.directory)).to_markdown()
    finally:
        path.write_text(before)
    marked = [line for line in text.splitlines() if line.startswith("|") and "\u00a7" in line]
    assert len(marked) == 1
    assert "SASRec" in marked[0]
    assert "kd-llm" in marked[0]
    assert "distillation collapsed (projected profiles alike for all users): toy SASRec kd-llm seed 1" in text
    assert "\u00a7" not in main_table(results).to_markdown()


def test_from_where_patience_counts_is_said_where_it_differs(results: Results) -> None:
    cell = results.cells("toy", "SASRec", "kd-llm")[1]
    manifests = {**results.manifests, cell: {**results.manifests[cell], "patience_from": 6}}
    text = main_table(replace(results, manifests=manifests)).to_markdown()
    assert "patience of distilled runs counts from the end of distillation (epoch 6)" in text
    assert "patience of distilled" not in main_table(results).to_markdown()


def test_difference_is_paired_by_user_and_seed(results: Results) -> None:
    frame = comparison_frame(compare(results)).set_index(["backbone", "variant"])
    panel = results.panels["toy"]
    means = {}
    for variant in ("plain", "kd-llm"):
        cells = list(results.cells("toy", "SASRec", variant).values())
        means[variant] = panel.user_values(cells, "NDCG@10")
    d = (means["kd-llm"] - means["plain"]).mean(axis=0)
    row = frame.loc[("SASRec", "kd-llm")]
    assert row["estimate"] == pytest.approx(d.mean())
    assert row["effect_size"] == pytest.approx(d.mean() / d.std(ddof=1))
    assert row["gain"] == pytest.approx(100 * d.mean() / means["plain"].mean())
    assert row["low"] < row["estimate"] < row["high"]
    assert row["gain_low"] < row["gain"] < row["gain_high"]


def test_planted_gain_is_found_and_the_placebo_is_not(results: Results) -> None:
    frame = comparison_frame(compare(results)).set_index(["backbone", "variant"])
    for backbone in ("SASRec", "GRU4Rec"):
        assert frame.loc[(backbone, "kd-llm"), "p_corrected"] < 0.05
        assert frame.loc[(backbone, "kd-shuffled"), "p_corrected"] > 0.05


def test_order_of_seeds_in_the_plan_does_not_matter(trial: Path, results: Results, tmp_path: Path) -> None:
    plan = json.loads((trial / "experiment.json").read_text())
    plan["cells"].sort(key=lambda c: -c["seed"])
    for cell in plan["cells"]:
        cell["run"] = f"runs/{cell['cell']}"
    shutil.copytree(trial.parent / "runs", tmp_path / "runs")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "experiment.json").write_text(json.dumps(plan))
    assert main_table(load_results(tmp_path / "again")).to_csv() == main_table(results).to_csv()


def test_partial_table_says_what_lacks(partial: Path) -> None:
    table = main_table(load_results(partial))
    text = table.to_markdown()
    assert "2/3" in text
    assert "0/3" in text
    assert "missing: toy SASRec kd-llm seed 2" in text
    assert "failed: toy SASRec kd-shuffled seed 0, 1, 2: MemoryError" in text
    assert "2 comparisons with" in text
    assert "1 made so far" in text
    states = table.frame.set_index("variant")["state"].to_dict()
    assert states == {"plain": "done", "kd-llm": "missing", "kd-shuffled": "failed"}


def test_planned_family_is_counted_whole(partial: Path) -> None:
    only = next(c for c in compare(load_results(partial)) if c.variant == "kd-llm")
    assert only.result is not None
    assert only.result.p_corrected == pytest.approx(min(1.0, 2 * only.result.p))


def test_nothing_done_yet(tmp_path: Path) -> None:
    every = [("toy", "SASRec", v, s) for v in ("plain", "kd") for s in (0, 1, 2)]
    directory = write_experiment(tmp_path, latent_ranks(5), skip=every)
    table = main_table(load_results(directory))
    assert [row[-1].text for row in table.rows] == ["0/3", "0/3"]
    assert "No comparison with 'plain' can be made yet" in table.caption
    assert len(write_outputs(directory)) == 6


def test_one_seed_is_said(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(50), seeds=(1,))
    table = main_table(load_results(directory))
    assert any("training randomness" in n for n in table.notes)
    assert "\u00b1" not in table.rows[0][2].text


def test_users_of_only_one_side_do_not_enter_a_difference(tmp_path: Path) -> None:
    make = latent_ranks(40)
    directory = write_experiment(tmp_path, make, seeds=(0,), skip=[("toy", "SASRec", "kd", 0)])
    label = {"dataset": "toy", "backbone": "SASRec", "variant": "kd", "seed": 0}
    rank = make("toy", "SASRec", "kd", 0)
    write_run(tmp_path / "runs" / "toy-sasrec-kd-0", label, rank, users=range(25))
    results = load_results(directory)
    table = main_table(results)
    base = make("toy", "SASRec", "plain", 0)
    expected = (per_user(rank[:25], "NDCG@10") - per_user(base[:25], "NDCG@10")).mean()
    comparison = compare(results)[0]
    assert comparison.result is not None
    assert comparison.result.estimate == pytest.approx(expected)
    assert comparison.n_users == 25
    text = table.to_markdown()
    assert "25 of 40 users in common" in text
    assert "different users: toy SASRec kd seed 0 has 25 of 40" in text
    assert not any(c.bold for row in table.rows for c in row)


def test_best_and_second(results: Results) -> None:
    table = main_table(results)
    column = [c.name for c in table.columns].index("NDCG@10 \u2191")
    values = table.frame["NDCG@10_mean"].to_numpy()
    order = np.argsort(-values)
    assert [i for i, row in enumerate(table.rows) if row[column].bold] == [order[0]]
    assert [i for i, row in enumerate(table.rows) if row[column].underline] == [order[1]]


def test_a_method_without_all_seeds_is_not_the_best(tmp_path: Path) -> None:
    make = latent_ranks(100, {"kd-llm": 3.0, "kd-template": 1.0})
    variants, skip = ("plain", "kd-llm", "kd-template"), [("toy", "SASRec", "kd-llm", 2)]
    results = load_results(write_experiment(tmp_path, make, variants=variants, skip=skip))
    table = main_table(results)
    assert table.frame["NDCG@10_mean"].idxmax() == 1
    marks = [(row[2].bold, row[2].underline) for row in table.rows]
    assert marks == [(False, True), (False, False), (True, False)]
    assert "among methods with all seeds and users" in table.caption
    assert dataset_scores(results)[1] == ["toy"]


def test_unknown_choices_are_one_line(results: Results) -> None:
    for options in (
        {"test": "anova"},
        {"correction": "sidak2"},
        {"baseline": "nobody"},
        {"metrics": ["NDGC@1"]},
    ):
        with pytest.raises(SpecError):
            compare(results, **options)


HOSTILE = "<script>alert(1)</script> & 100 % _#_ {x} $5 ~ ^ \\ | [red] \u4e2d \U0001f600 \u0394"


def hostile_table() -> Table:
    return Table(
        name="evil <b>",
        title=HOSTILE,
        caption=HOSTILE,
        columns=(Column(HOSTILE, "l"), Column("NDCG@10 \u2191")),
        rows=(
            (Cell(HOSTILE, bold=True), Cell("0.1 \u00b1 0.2", underline=True)),
            (Cell("=1+1"), Cell("\u2212x")),
        ),
        groups=(0, 1),
        notes=(HOSTILE,),
        frame=pd.DataFrame({"name": [HOSTILE, "=1+1", "@x"], "value": [0.1, np.nan, 1 / 3]}),
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_keeps_text_text() -> None:
    parser = Tags()
    parser.feed(hostile_table().to_html())
    assert "script" not in parser.tags
    assert "".join(parser.text).count(HOSTILE) == 5


def test_markdown_has_one_line_per_row_and_no_tags() -> None:
    lines = hostile_table().to_markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)\|", r)) == 3 for r in rows)
    assert not any("<script>" in line for line in lines)


def test_csv_round_trip_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(hostile_table().to_csv())))
    assert rows[0]["name"] == HOSTILE
    assert rows[1]["name"] == "'=1+1"
    assert rows[2]["name"] == "'@x"
    assert float(rows[2]["value"]) == pytest.approx(1 / 3, rel=1e-9)
    assert rows[1]["value"] == ""


def test_console_shows_brackets() -> None:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(hostile_table().to_rich())
    assert "[red]" in console.export_text()


def test_console_table_of_results(results: Results) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(console_table(results))
    text = console.export_text()
    assert "kd-shuffled" in text
    assert "baseline" in text


DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
%s
\end{document}
"""


def compile_latex(source: str, folder: Path) -> str:
    """What pdflatex says of a minimal document; a draft, as fonts would have to be made first."""
    (folder / "t.tex").write_text(DOCUMENT % source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
    command += ["-draftmode", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in log
    return log


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(tmp_path: Path, results: Results) -> None:
    letters = "".join(chr(c) for c in range(0xC0, 0x17F))
    awkward = Table("x", letters, "", (Column("a"),), ((Cell(letters),),))
    compile_latex(hostile_table().to_latex() + main_table(results).to_latex() + awkward.to_latex(), tmp_path)
    assert "Overfull" not in compile_latex(main_table(results).to_latex(), tmp_path)


def test_latex_is_balanced_and_escaped() -> None:
    source = hostile_table().to_latex()
    bare = re.sub(r"\\[\\&%$#_{}]", "", source)
    body = "\n".join(line for line in bare.splitlines() if not line.startswith("%"))
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    assert "%" not in body
    assert "#" not in body
    assert latex_escape("\u4e2d") == "[U+4E2D]"


def test_outputs_are_reproducible_and_atomic(trial: Path) -> None:
    first = {p.name: p.read_bytes() for p in write_outputs(trial)}
    second = {p.name: p.read_bytes() for p in write_outputs(trial)}
    assert first == second
    assert set(first) == {"table.md", "table.csv", "table.tex", "comparisons.csv", "gains.pdf", "gains.png"}
    assert b"CreationDate" not in first["gains.pdf"]
    assert str(trial).encode() not in b"".join(first.values())
    assert not [p for p in trial.iterdir() if p.name.startswith(".")]


def test_unwritable_target_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10))
    (directory / "table.md").mkdir()
    with pytest.raises(StoreError, match=r"table\.md: cannot be written"):
        write_outputs(directory)
    assert sorted(p.name for p in directory.iterdir()) == ["experiment.json", "table.md"]


@pytest.mark.parametrize("test", ["two-level", "wilcoxon", "seeds"])
def test_d_z_is_of_the_seed_averaged_differences_whatever_the_test(results: Results, test: str) -> None:
    table = main_table(results, test=test)
    cells = [list(results.cells("toy", "SASRec", v).values()) for v in ("kd-llm", "plain")]
    method, base = (results.panels["toy"].user_values(c, "NDCG@10") for c in cells)
    d = (method - base).mean(axis=0)
    expected = d.mean() / d.std(ddof=1)
    place = table.frame.index[(table.frame["backbone"] == "SASRec") & (table.frame["variant"] == "kd-llm")][0]
    assert table.frame.loc[place, "d_z"] == pytest.approx(expected)
    column = [c.name for c in table.columns].index("d_z")
    assert table.rows[place][column].text == f"{expected:+.3f}"


def test_marks_of_tables_are_latex() -> None:
    assert latex_escape("kd \u00a7") == r"kd \S{}"
    assert latex_escape("\u221e") == r"$\infty$"


def test_no_first_cell_is_an_option_of_the_rule_or_break_before_it() -> None:
    """LaTeX reads ``[`` and ``*`` behind a rule or a line break, over spaces and lines, as an option."""
    rows = tuple((Cell(text), Cell("1")) for text in ("[a]", "\u6570", "* b", "plain"))
    source = Table("x", "t", "c", (Column("[head]", "l"), Column("v")), rows).to_latex()
    assert not re.search(r"\\(\\|toprule|midrule)\s*[\[*]", source)
    assert "{}[U+6570] & 1" in source
    assert "\nplain & 1" in source
