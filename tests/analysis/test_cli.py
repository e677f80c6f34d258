"""Verbs of the command line, the Python door, and comparisons of single runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from synthetic import latent_ranks, write_experiment
from typer.testing import CliRunner

import analysis
from analysis.cli import SLICES, TABLES, register
from analysis.load import Results, load_runs
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.metrics import per_user


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    register(made)
    return made


@pytest.mark.parametrize("table", [t for t in TABLES if t not in ("last-k", "grounding", "candidates")])
def test_every_table_can_be_printed(app: typer.Typer, trial: Path, table: str) -> None:
    arguments = ["tables", str(trial), "--table", table, "--format", "csv", "--reference", "kd-llm"]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    # Cells that share a protocol share a row, which names no variant.
    assert ("leave-one-out" if table == "protocol" else "kd-llm") in outcome.stdout


@pytest.mark.parametrize(
    ("form", "mark"),
    [
        ("console", "───"),
        ("markdown", "| ---"),
        ("latex", r"\toprule"),
        ("html", "<table"),
        ("csv", ",p_corrected,"),
    ],
)
def test_formats(app: typer.Typer, trial: Path, form: str, mark: str) -> None:
    outcome = CliRunner().invoke(app, ["compare", str(trial), "--format", form], catch_exceptions=False)
    assert mark.replace("| ---", "|:---") in outcome.stdout
    assert "kd-shuffled" in outcome.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--table", "menu"],
        ["--table", "ablation"],
        ["--format", "pdf"],
        ["--table", "ablation", "--reference", "x"],
    ],
)
def test_wrong_choice_is_a_user_error(app: typer.Typer, trial: Path, arguments: list[str]) -> None:
    outcome = CliRunner().invoke(app, ["tables", str(trial), *arguments])
    assert isinstance(outcome.exception, SpecError)
    assert "\n" not in str(outcome.exception)


def test_two_runs_are_compared_per_user(app: typer.Typer, trial: Path, results: Results) -> None:
    paths = [trial.parent / "runs" / f"toy-sasrec-{v}-1" for v in ("plain", "kd-llm")]
    found = load_runs(paths)
    comparison = analysis.compare(found)[0]
    panel = results.panels["toy"]
    a, b = (panel.rank[panel.cells.index(p.name)] for p in paths)
    assert comparison.result is not None
    assert comparison.result.estimate == pytest.approx(
        (per_user(b, "NDCG@10") - per_user(a, "NDCG@10")).mean()
    )
    assert comparison.result.unit == "users"
    arguments = ["compare", *map(str, paths), "--format", "markdown", "--test", "t"]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "a: SASRec plain seed 1" in outcome.stdout
    assert "paired t" in outcome.stdout


def test_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"manifest\.json: not found"):
        load_runs([tmp_path])


def test_one_run_under_two_variant_names(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(30))
    plan = json.loads((directory / "experiment.json").read_text())
    plan["cells"] += [c | {"variant": "alias"} for c in plan["cells"] if c["variant"] == "kd"]
    (directory / "experiment.json").write_text(json.dumps(plan))
    frame = analysis.main_table(analysis.load_results(directory)).frame.set_index("variant")
    assert frame.loc["alias", "NDCG@10_mean"] == frame.loc["kd", "NDCG@10_mean"]
    assert frame["n_seeds"].tolist() == [3, 3, 3]
    assert len(analysis.load_results(directory).ranks_frame()) == 9 * 30
    assert analysis.cost_frame(analysis.load_results(directory))["n_seeds"].tolist() == [3, 3, 3]


def test_door_names_exist_and_are_documented() -> None:
    for name in analysis.__all__:
        assert (getattr(analysis, name).__doc__ or "").strip(), name
    assert callable(analysis.compare)
    with pytest.raises(AttributeError):
        _ = analysis.nothing


def test_every_table_of_the_command_line_is_behind_the_door() -> None:
    functions = {"main": "main", "tests": "evidence", **dict.fromkeys(SLICES, "slice")}
    for table in TABLES:
        assert f"{functions.get(table, table)}_table" in analysis.__all__, table


def test_command_line_is_light() -> None:
    code = (
        "import sys, analysis, analysis.cli;"
        "heavy = {'numpy', 'pandas', 'matplotlib', 'scipy', 'torch', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_report_and_figures(app: typer.Typer, tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(60), metrics=("NDCG@10",))
    outcome = CliRunner().invoke(app, ["report", str(directory)], catch_exceptions=False)
    assert (directory / "report.html").exists()
    assert "report.html" in outcome.stdout
    CliRunner().invoke(app, ["figures", str(directory)], catch_exceptions=False)
    names = {p.name for p in (directory / "figures").iterdir()}
    assert {"gains.pdf", "gains.png", "gain-by-history.png", "training-toy-SASRec.pdf", "cost.pdf"} <= names


def test_a_bare_name_means_the_folder_in_results(
    app: typer.Typer, trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").symlink_to(trial.parent)
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, ["compare", trial.name, "--format", "csv"], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "kd-shuffled" in outcome.stdout
