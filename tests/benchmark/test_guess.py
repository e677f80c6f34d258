"""The first guess at a plan's time: grows with the data and the model, gives way to what ran."""

import json
from pathlib import Path

import pytest

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.guess import Size, epoch_work, file_size, guesses, total
from recbole_kd.benchmark.plan import make_plan
from recbole_kd.benchmark.resolve import load_experiment
from tests.benchmark.test_sweep import fake


def test_a_file_is_counted(place):
    path = place / "data" / "tiny" / "tiny.inter"
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    found = file_size(str(path), "user_id", "item_id")
    assert found == Size(len(rows), len({r[0] for r in rows}), len({r[1] for r in rows}))


def test_work_of_sasrec_by_hand(place):
    cell = load_experiment("small").cells[0].spec
    size = Size(interactions=1000, users=100, items=50)
    block = 4 * 8 * 8 + 2 * 8 * 8 + 2 * 8 * 8  # four maps, feed-forward of inner size 8, attention over 8
    expected = 3 * 1000 * (block + 50 * 8) + 100 * (8 * block + 50 * 8)
    assert epoch_work(cell, size) == expected
    assert epoch_work(cell, Size(2000, 100, 50)) > 1.8 * expected - 100 * (8 * block + 50 * 8)


def test_every_cell_of_the_baselines_has_a_guess():
    plan = make_plan(load_experiment("baselines").cells, Path("/nonexistent"))
    guessed = guesses(plan)
    assert {s.cell for s in plan.states} == set(guessed)
    by = {(s.planned.label.backbone, s.planned.label.variant): guessed[s.cell] for s in plan.states}
    assert by["Pop", "plain"] < by["SASRec", "plain"] < by["SASRec", "unisrec"]
    assert total(plan, guessed, 2) == pytest.approx(sum(guessed.values()) / 2)


def test_what_ran_replaces_and_corrects_the_guess(place, write_experiment, tmp_path):
    path = write_experiment(
        "two", {"backbones": ["SASRec", "GRU4Rec"], "variants": {"plain": {}}, "seeds": [1]}
    )
    cells = load_experiment(path).cells
    before = guesses(make_plan(cells, tmp_path / "r"))
    fake.write_fake_run(tmp_path / "r", cells[0].cell, cells[0].label.canonical())
    plan = make_plan(cells, tmp_path / "r")
    after = guesses(plan)
    measured = plan.states[0].estimate
    assert set(after) == {cells[1].cell}
    assert after[cells[1].cell] == pytest.approx(before[cells[1].cell] * measured / before[cells[0].cell])


def test_plan_says_that_it_guesses(place, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "small", "--results", str(place / "r"), "--workers", "1"])
    said = capsys.readouterr().out
    assert "a first guess from data and model size" in said
    with pytest.raises(SystemExit):
        main(["plan", "small", "--results", str(place / "r"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["estimate_seconds"] is None
    assert found["guess_seconds"] > 0


def test_a_falling_rate_runs_all_its_epochs_and_a_constant_one_is_stopped(place, write_experiment):
    def guess(schedule: str, keep_from: float = 0) -> float:
        train = {
            "epochs": 40,
            "stopping_step": 40,
            "learning_rate_schedule": schedule,
            "keep_from": keep_from,
        }
        variants = {"plain": {"train": train}}
        path = write_experiment(
            f"{schedule}-{keep_from}", {"backbones": ["SASRec"], "variants": variants, "seeds": [1]}
        )
        plan = make_plan(load_experiment(path).cells, place / "none")
        return total(plan, guesses(plan), 1)

    assert guess("linear") - 3 == pytest.approx((guess("constant") - 3) * 40 / 20)
    assert guess("constant", 0.75) - 3 == pytest.approx((guess("constant") - 3) * 30 / 20)


def test_a_sample_shrinks_the_training_and_not_the_validation(place, write_experiment):
    def work(sample: dict[str, float] | None, interactions: int = 1000) -> float:
        dataset = {} if sample is None else {"dataset": {"split": {"sample": {**sample, "seed": 1}}}}
        path = write_experiment(
            "sampled", {"backbones": ["SASRec"], "variants": {"plain": {}}, "seeds": [1], **dataset}
        )
        return epoch_work(load_experiment(path).cells[0].spec, Size(interactions, 100, 50))

    whole, validation = work(None), work(None, 0)
    assert work({"users": 0.25}) == pytest.approx(validation + 0.25 * (whole - validation))
    assert work({"users": 0.5, "interactions": 0.5}) == pytest.approx(work({"interactions": 0.25}))
