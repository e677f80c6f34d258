"""The cost model against hand-worked sums, its units, and its break-even against brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic import latent_ranks, write_experiment

from analysis.load import load_results
from analysis.scale import model
from analysis.scale.assumptions import PARAMETERS, read_assumptions
from analysis.scale.measured import READERS, with_measured
from analysis.scale.sensitivity import one_at_a_time
from recbole_kd.errors import SpecError

# Round numbers, so that every sum below can be done in the head.
VALUES = {
    "requests": 2,
    "days": 30,
    "profiles": 1,
    "prompt_tokens": 1000,
    "answer_tokens": 200,
    "new_users": 0.05,
    "refreshed": 0.5,
    "profile_age": 60,
    "written_off": 10,
    "list_input": 1.0,
    "list_output": 5.0,
    "batch_factor": 0.5,
    "gpu_hour": 3.6,
    "cpu_hour": 0.036,
    "gpu_prompt_rate": 10_000,
    "gpu_answer_rate": 1_000,
    "small_writer": 2,
    "encoder_rate": 50,
    "text_bytes": 500,
    "vector_bytes": 1500,
    "copies": 3,
    "storage": 0.02,
    "interactions": 100,
    "epochs": 10,
    "trainings": 4,
    "train_rate": 10_000,
    "gpu_train_rate": 2_000_000,
    "distil_factor": 1.5,
    "distil_share": 0.2,
    "catalogue_factor": 2,
    "student_seconds": 0.001,
    "utilisation": 0.5,
    "standby_cpus": 4,
    "standby_gpus": 2,
    "loop_prompt_tokens": 1500,
    "loop_answer_tokens": 100,
    "lists_age": 1,
}


def lines(**changes: object) -> dict:
    """Lines of a YAML with these values."""
    made = {
        name: {"value": VALUES[name], "unit": unit, "basis": "assumed", "source": "a test"}
        for name, (unit, _) in PARAMETERS.items()
    }
    for name, change in changes.items():
        made[name] = made[name] | change
    return made


def test_one_profile_and_one_request_by_hand():
    # 1000 tokens at 1 USD and 200 at 5 USD per million.
    assert model.WRITERS["API, list price"](VALUES) == pytest.approx(0.002)
    assert model.WRITERS["API, batch price"](VALUES) == pytest.approx(0.001)
    # .1 s of reading and .2 s of writing on a GPU of .001 USD per second.
    assert model.WRITERS["own GPU"](VALUES) == pytest.approx(0.0003)
    assert model.WRITERS["SmolLM2 on CPU"](VALUES) == pytest.approx(2 * 0.00001)
    assert model.LOOPS["API, list price"](VALUES, 1, 1 / 30) == pytest.approx(0.002)


def test_the_bill_of_a_million_users_by_hand():
    bill = model.distilled(VALUES, 1e6, 2, "API, list price")
    # Newcomers .05, half of the users every second month .25, a tenth of the first profiles .1.
    assert model.profiles_per_month(VALUES) == pytest.approx(0.4)
    assert bill.writing == pytest.approx(400_000 * 0.002)
    assert bill.encoding == pytest.approx(400_000 / 50 * 0.00001)
    # 1e6 x 3 copies x 2 kB = 6 GB.
    assert bill.storage == pytest.approx(6 * 0.02)
    # 4 trainings x 10 epochs x 1e8 interactions x 2 = 8e9; on a thread 1e-9 USD each, on a GPU 5e-10.
    assert bill.training == pytest.approx(8e9 * 5e-10 * 1.1)
    # 2e6 requests a day of 2 ms at .5: .0926 threads, fewer than the 4 that always run.
    assert bill.serving == pytest.approx(4 * 0.036 * 720)
    assert bill.total == pytest.approx(800 + 0.08 + 0.12 + 4.4 + 103.68)
    assert model.set_up(VALUES, 1e6, "API, list price") == pytest.approx(1e6 * (0.002 + 2e-7))
    busy = model.distilled(VALUES, 1e9, 2, "API, list price").serving
    assert busy == pytest.approx(2e9 / 86_400 * 0.002 / 0.5 * 0.036 * 720)


def test_a_thread_trains_where_it_is_cheaper():
    cheap = VALUES | {"cpu_hour": 0.0036}
    assert model.training(cheap, 1e6, distilled=False) == pytest.approx(8e9 / 10_000 * 1e-6)


def test_the_loop_by_hand():
    plain = model.plain(VALUES, 1e6, 2)
    api = model.in_the_loop(VALUES, 1e6, 2, "API, list price")
    assert api.llm_serving == pytest.approx(1e6 * 60 * 0.002)
    assert api.total == pytest.approx(plain.total + 120_000)
    # .15 s + .1 s per request at half load: 1e6 x 2 / 86,400 x .25 / .5 = 11.57 GPUs.
    gpu = model.in_the_loop(VALUES, 1e6, 2, "own GPU")
    assert gpu.llm_serving == pytest.approx(2e6 / 86_400 * 0.5 * 3.6 * 720)
    assert model.in_the_loop(VALUES, 1e6, 0.001, "own GPU").llm_serving == pytest.approx(2 * 3.6 * 720)
    ahead = model.in_advance(VALUES, 1e6, 2)
    assert ahead.llm_serving == pytest.approx(1e6 * 30 * 0.001)
    assert ahead.llm_serving == model.in_advance(VALUES, 1e6, 50).llm_serving


@pytest.mark.parametrize("loop", model.LOOPS)
@pytest.mark.parametrize("writer", model.WRITERS)
@pytest.mark.parametrize("users", [1e3, 1e6, 1e9])
def test_break_even_is_where_the_bills_cross(users, writer, loop):
    """Brute force: the first of many requests per day at which the distilled bill is the smaller one."""
    found = model.break_even(VALUES, users, writer, loop)
    grid = np.concatenate([[0.0], np.logspace(-5, 3, 4001)])
    cheaper = [
        model.distilled(VALUES, users, r, writer).total < model.in_the_loop(VALUES, users, r, loop).total
        for r in grid
    ]
    first = int(np.argmax(cheaper))
    assert any(cheaper)
    assert all(cheaper[first:])
    if first == 0:
        assert found == 0.0
    else:
        assert grid[first - 1] * (1 - 1e-9) <= found <= grid[first] * (1 + 1e-9)


def test_break_even_does_not_depend_on_the_users_but_for_standing_machines():
    api = [model.break_even(VALUES, n, "own GPU", "API, list price") for n in (1e3, 1e9)]
    assert api[0] == pytest.approx(api[1])
    gpu = [model.break_even(VALUES, n, "API, list price", "own GPU") for n in (1e3, 1e9)]
    assert gpu[0] == 0 < gpu[1]
    free = VALUES | {"list_input": 0, "list_output": 0}
    assert model.break_even(free, 1e6, "own GPU", "API, list price") == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_hour": {"unit": "USD/hour"}}, "gpu_hour.unit is 'USD/hour', the model needs 'USD/GPU-hour'"),
        ({"utilisation": {"value": 1.2}}, "utilisation.value = 1.2 is a share"),
        ({"days": {"range": [31, 32]}}, "must hold value 30"),
        ({"days": {"basis": "guessed"}}, "days.basis"),
        ({"days": {"value": float("inf")}}, "finite"),
        ({"days": {"rang": [1, 40]}}, "days.rang"),
    ],
)
def test_a_bad_line_is_one_line_of_error(changes, message):
    with pytest.raises(SpecError) as error:
        read_assumptions(lines(**changes), "a.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_and_missing_names_are_named():
    with pytest.raises(SpecError, match="did you mean 'gpu_hour'"):
        read_assumptions(lines() | {"gpu_hours": {}}, "a.yaml")
    less = lines()
    del less["storage"]
    with pytest.raises(SpecError, match="'storage' is missing"):
        read_assumptions(less, "a.yaml")


def test_every_parameter_changes_some_bill():
    """No line is decoration: doubling (or halving) it changes what some system costs."""
    silent = []
    for name in PARAMETERS:
        changed = VALUES | {name: VALUES[name] * (0.5 if name in ("batch_factor", "utilisation") else 2)}
        # Standing machines count with few users, the load with many; a thread is dearer than a GPU here.
        pairs = [(bill, n) for bill in model.systems().values() for n in (1e3, 1e9)]
        dear = {"gpu_hour": 1000.0} if name == "train_rate" else {}
        if all(bill(VALUES | dear, n, 2) == bill(changed | dear, n, 2) for bill, n in pairs):
            silent.append(name)
    # The bills are drawn at given requests; the line itself says at which.
    assert silent == ["requests"]


def test_sensitivity_moves_one_line_at_a_time():
    given = read_assumptions(
        lines(profile_age={"range": [30, 120]}, storage={"range": [0.02, 0.02]}, gpu_hour={"range": [3, 4]}),
        "a",
    )
    moved = {m.name: m for m in one_at_a_time(given, 1e6, "API, list price", "API, list price")}
    assert set(moved) == {"profile_age", "storage", "gpu_hour"}
    by_hand = model.break_even(VALUES | {"profile_age": 120}, 1e6, "API, list price", "API, list price")
    assert moved["profile_age"].at_high == by_hand
    assert moved["storage"].spread == 0
    assert next(iter(moved)) == "profile_age"


@pytest.fixture
def runs(tmp_path: Path):
    """Two seeds of plain and kd: 100 s against 130 s for 10 epochs of 1000 interactions of 50 users."""
    home = write_experiment(tmp_path, latent_ranks(50), variants=("plain", "kd"), seeds=(0, 1))
    for path in (tmp_path / "runs").iterdir():
        manifest = json.loads((path / "manifest.json").read_text())
        taught = "kd" in path.name
        manifest["seconds"] = {"train": 130.0 if taught else 100.0}
        manifest |= {"epochs": 10, "counts": {"train_interactions": 1000, "train_users": 50}}
        manifest["cost"] = {"llm_calls": 50.0 if taught else 0.0, "llm_seconds": 25.0}
        (path / "manifest.json").write_text(json.dumps(manifest))
        history = pd.read_parquet(path / "history.parquet")
        # The plain runs had a machine of another load: they must not enter the ratio.
        history["seconds"] = 2.0 if taught else 0.5
        history.loc[history["phase"] == "distil", "seconds"] = 2.6
        history.to_parquet(path / "history.parquet")
    return home


def test_measured_rates_come_from_the_runs(runs: Path):
    read = {n: {"read": r} for n, r in (("train_rate", "train-rate"), ("epochs", "epochs"))}
    read |= {n: {"read": n.replace("_", "-")} for n in ("distil_factor", "distil_share", "small_writer")}
    read |= {"interactions": {"read": "interactions"}, "student_seconds": {"read": "student-seconds"}}
    read |= {"gpu_train_rate": {"read": "gpu-train-rate", "range": [1_000_000, 4_000_000]}}
    read["train_rate"]["range"] = [5_000, 20_000]
    given = read_assumptions(lines(**read), "a")
    assert {line.read for line in given.lines.values() if line.read} == set(READERS)
    found = with_measured(given, load_results(runs), "a").lines
    assert found["train_rate"].value == pytest.approx(100.0)
    # The range still holds the value.
    assert found["train_rate"].range == pytest.approx((100.0, 20_000.0))
    assert found["train_rate"].basis == "measured"
    assert "median of 2 runs" in found["train_rate"].source
    assert found["epochs"].value == 10
    assert found["interactions"].value == 20
    assert found["distil_factor"].value == pytest.approx(1.3)
    assert found["distil_share"].value == pytest.approx(5 / 12)
    assert found["small_writer"].value == pytest.approx(0.5)
    # Nothing ran on a GPU, nothing was served: those lines stand as they were.
    assert found["gpu_train_rate"] == given.lines["gpu_train_rate"]
    assert found["student_seconds"].basis == "assumed"
    row = {"batch": 1, "p50": 1.5, "ratio": 1.01, "rounds": 60, "form": "torch"}
    plain = row | {"ratio": None, "p50": 0.1}
    (runs / "latency.json").write_text(json.dumps({"rows": [plain, row, row | {"batch": 256, "p50": 0.2}]}))
    again = with_measured(given, load_results(runs), "a").lines
    assert again["student_seconds"].value == pytest.approx(0.0015)
    with pytest.raises(SpecError, match="did you mean 'epochs'"):
        with_measured(read_assumptions(lines(epochs={"read": "epoch"}), "a"), load_results(runs), "a")


def test_the_shipped_lines_hold_and_quote_the_price_table(repo_root: Path):
    study = yaml.safe_load((repo_root / "properties/experiment/study_cost_at_scale.yaml").read_text())
    given = read_assumptions(study["study"]["settings"]["assumptions"], "study").lines
    assert {line.read for line in given.values() if line.read} <= set(READERS)
    prices = yaml.safe_load((repo_root / "profiles/prices.yaml").read_text())
    quoted = prices["models"]["gpt-4o-mini"]
    assert (given["list_input"].value, given["list_output"].value) == (quoted["input"], quoted["output"])
    assert given["batch_factor"].value == quoted["batch"]
    assert prices["dated"] in given["list_input"].source
    text = (repo_root / "properties/experiment/study_cost_at_scale.yaml").read_text().splitlines()
    for name in given:
        assert sum(line.strip().startswith(f"{name}: {{value:") for line in text) == 1


def test_the_page_names_what_was_measured(runs: Path, repo_root: Path):
    """Built from the shipped YAML and two made-up methods: bills, break-even, every line, a known case."""
    from analysis.studies import write_study_page
    from recbole_kd.benchmark.study.load import load_study

    record = load_study("cost_at_scale").record()
    record["parts"] = [{"x": None, "folder": "."}]
    record["known"][0]["of"] = ["kd"]
    (runs / "study.json").write_text(json.dumps(record))
    page, *files = write_study_page(runs, runs / "cost_at_scale.md")
    assert {f.suffix for f in files} == {".png", ".csv", ".tex"}
    text = page.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith(("| **measured**", "| assumed"))]
    assert len(table) == len(PARAMETERS)
    assert sum("of this study" in line for line in table) == 6
    assert "- holds: a distilled student serves like the plain one" in text
    answer = text.split("## Answer")[1].split("## ")[0].strip().splitlines()
    assert [line[:3] for line in answer] == ["1. ", "2. ", "3. "]
    # The figure in the answer is the one of the table, and that is the model's.
    given = with_measured(
        read_assumptions(record["settings"]["assumptions"], "a"), load_results(runs), "a"
    ).values()
    at = model.break_even(given, 1e9, "API, list price", "API, list price")
    assert f"cheaper from {at:.3g} requests" in answer[1]
    bills = pd.read_csv(runs / "cost_at_scale-costs.csv")
    row = bills[(bills["users"] == 1e8) & (bills["system"] == "distilled (own GPU)")].iloc[0]
    assert row["total"] == pytest.approx(model.distilled(given, 1e8, 1, "own GPU").total)
