"""``overrides`` reach what they name, with its controls, and nothing that they name is unknown."""

import pytest

from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.study.load import load_study
from recbole_kd.errors import SpecError

GRID = {"plain": {}, "kd": {"teacher": "smollm2", "grid": {"distill.alpha": [0.2, 0.4]}}}
ONE = {"plain": {}, "kd": {"teacher": "smollm2"}}


def rate(where, value=0.007):
    return {"where": where, "train": {"learning_rate": value}}


def students(path):
    return {c.label.variant: c.spec.student for c in load_experiment(path).cells}


def rates(path):
    return {variant: student.train.learning_rate for variant, student in students(path).items()}


def test_controls_train_as_the_teacher_that_they_control(write_experiment):
    path = write_experiment("c", {"variants": ONE, "overrides": [rate({"variant": "kd"})], "seeds": [1]})
    found = rates(path)
    assert found.pop("plain") != 0.007
    assert found == {"kd": 0.007, "kd-template": 0.007, "kd-shuffled": 0.007}


def test_a_variant_s_name_reaches_every_point_of_its_grid(write_experiment):
    over = [rate({"variant": "kd[alpha=0.4]"}, 0.009), rate({"variant": "kd"}), rate({}, 0.002)]
    # Beside a variant's own name the file's order counts, as ever; what names a point comes last.
    path = write_experiment("c", {"variants": GRID, "overrides": over[:2], "seeds": [1], "controls": "none"})
    found = rates(path)
    assert (found["kd[alpha=0.2]"], found["kd[alpha=0.4]"]) == (0.007, 0.009)
    path = write_experiment("c", {"variants": GRID, "overrides": over, "seeds": [1], "controls": "none"})
    found = rates(path)
    assert (found["kd[alpha=0.2]"], found["kd[alpha=0.4]"]) == (0.002, 0.009)


def test_a_control_s_own_name_comes_last(write_experiment):
    over = [rate({"variant": "kd-shuffled"}, 0.009), rate({"variant": "kd"})]
    path = write_experiment("c", {"variants": ONE, "overrides": over, "seeds": [1]})
    found = rates(path)
    assert (found["kd"], found["kd-template"], found["kd-shuffled"]) == (0.007, 0.007, 0.009)


def test_every_point_of_a_grid_has_its_controls(write_experiment):
    found = students(write_experiment("c", {"variants": GRID, "seeds": [1]}))
    alpha = {variant: s.distill.alpha for variant, s in found.items() if s.distill is not None}
    assert alpha == {
        "kd[alpha=0.2]": 0.2,
        "kd-template": 0.2,
        "kd[alpha=0.2]-shuffled": 0.2,
        "kd[alpha=0.4]": 0.4,
        "kd[alpha=0.4]-template": 0.4,
        "kd[alpha=0.4]-shuffled": 0.4,
    }


def test_a_title_that_is_taken_drops_no_control(write_experiment):
    listed = {**ONE, "kd-template": {"teacher": "template", "distill": {"alpha": 0.9}}}
    found = students(write_experiment("c", {"variants": listed, "seeds": [1]}))
    assert list(found) == ["plain", "kd", "kd-template", "kd-template-2", "kd-shuffled"]
    assert found["kd-template-2"].distill == found["kd"].distill


def test_a_listed_control_counts_unless_an_override_tells_it_from_its_teacher(write_experiment):
    listed = {**ONE, "mine": {"teacher": "shuffled"}}
    assert "kd-shuffled" not in rates(write_experiment("c", {"variants": listed}))
    over = [rate({"variant": "kd"})]
    assert rates(write_experiment("c", {"variants": listed, "overrides": over}))["kd-shuffled"] == 0.007
    over = [rate({"variant": "kd"}), rate({"variant": "mine"})]
    assert "kd-shuffled" not in rates(write_experiment("c", {"variants": listed, "overrides": over}))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"variant": "kd[alpha=0.3]"}, "no variant 'kd[alpha=0.3]'; did you mean 'kd[alpha=0."),
        ({"variant": "plian"}, "no variant 'plian'; did you mean 'plain'?"),
        ({"backbone": "SASrec"}, "no backbone 'SASrec'; did you mean 'SASRec'?"),
        ({"backbone": "SASRecKD"}, "no backbone 'SASRecKD'; did you mean 'SASRec'?"),
        ({"dataset": "tinny"}, "no dataset 'tinny'; did you mean 'tiny'?"),
    ],
)
def test_a_name_that_nothing_has_is_refused(write_experiment, where, expected):
    path = write_experiment("c", {"variants": GRID, "overrides": [rate({}), rate(where)]})
    line = 1 + [f"{next(iter(where))}: {next(iter(where.values()))}" in x for x in lines(path)].index(True)
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    assert str(error.value).startswith(f"{path}:{line}: overrides: where: ")
    assert expected in str(error.value)


def lines(path):
    return path.read_text().splitlines()


def test_what_is_known_but_not_listed_is_no_slip(write_experiment):
    """Studies share overrides among parts that lack some datasets."""
    names = [
        {"dataset": "ml-1m"},
        {"backbone": "BERT4Rec"},
        {"backbone": "Caser"},
        {"backbone": "recbole:NARM"},
    ]
    path = write_experiment("c", {"overrides": [rate(where) for where in names]})
    assert 0.007 not in rates(path).values()


def test_an_override_may_name_what_a_smaller_study_leaves_out(write_experiment):
    """The whole study still refuses a slip."""
    study = {
        "question": "?",
        "figures": ["bars"],
        "tables": ["main"],
        "smoke": {"study": {"keep": {"variants": ["plain"]}}},
    }
    over = [rate({"variant": "wide"})]
    path = write_experiment("study_s", {"study": study, "overrides": over})
    assert {c.label.variant for c in load_study("s", smoke=True).cells().values()} == {"plain"}
    path.write_text(path.read_text().replace("variant: wide", "variant: widde"))
    with pytest.raises(SpecError, match="did you mean 'wide'"):
        load_study("s")
