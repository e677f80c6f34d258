"""The baselines are taught for as long as their papers teach them."""

import pytest

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.resolve import load_experiment, read_experiment
from recbole_kd.training.schedules import make_schedule

# One loss from the first epoch to the last.
JOINT = {"rlmrec", "rlmrec-users", "dllm2rec", "ranking-distillation", "de-rrd"}
# Half of the epochs, then a new optimiser without the teacher.
HALVES = {"llm-kt", "llm-kt-first"}


@pytest.fixture(scope="module")
def students():
    """Taught students of the experiment ``baselines``, as resolved, by variant."""
    found = {}
    for cell in load_experiment("baselines").cells:
        if cell.spec.student.distill is not None:
            found.setdefault(cell.label.variant, []).append(cell.spec.student)
    return found


def test_every_taught_variant_is_accounted_for(students):
    assert set(students) == JOINT | HALVES | {"kd-template"}


@pytest.mark.parametrize("variant", sorted(JOINT))
def test_a_joint_loss_distils_in_every_epoch(variant, students):
    for student in students[variant]:
        schedule = make_schedule(student.distill, student.train.epochs)
        shares = {schedule.alpha(epoch) for epoch in range(1, student.train.epochs + 1)}
        assert shares == {student.distill.alpha}
        assert student.distill.alpha > 0
        assert all(schedule.distils(epoch, 7 * epoch) for epoch in range(1, student.train.epochs + 1))
        assert schedule.patience_from == 0
        assert not student.distill.reset_optimizer


@pytest.mark.parametrize("variant", sorted(HALVES))
def test_llm_kt_regresses_on_the_profile_itself_for_half_of_sixty_epochs(variant, students):
    by = {student.model: student for student in students[variant]}
    assert set(by) == {"SASRecKD", "BERT4RecKD"}
    for student in by.values():
        assert (student.distill.objective, student.distill.target) == ("rmse", "raw")
        assert student.distill.reset_optimizer
        schedule = make_schedule(student.distill, student.train.epochs)
        assert [e for e in range(1, student.train.epochs + 1) if schedule.alpha(e)] == list(range(1, 31))
    assert by["BERT4RecKD"].train.epochs == 2 * 30  # the one backbone whose epochs are fixed


@pytest.mark.parametrize("name", ["baselines-beauty", "baselines-beauty-brief"])
def test_what_includes_the_baselines_keeps_their_schedules(name):
    ours, theirs = (
        read_experiment(properties.find("experiment", which))["variants"] for which in (name, "baselines")
    )
    for variant in JOINT | HALVES:
        assert ours[variant]["distill"] == theirs[variant]["distill"]


def test_the_brief_experiment_trains_everything_for_three_epochs():
    """A variant's own epochs are laid over those of an override."""
    brief = read_experiment(properties.find("experiment", "baselines-beauty-brief"))
    trained = [own["train"] for own in brief["variants"].values() if "train" in own]
    assert [train.get("epochs", 3) for train in trained] == [3]
