"""The course of the learning rate: by hand, against torch's own, and as a run applies it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recbole_kd.errors import SpecError
from recbole_kd.training.fit import fit
from recbole_kd.training.rates import COURSES
from recbole_kd.training.spec import TrainSpec
from tests.students import MAX_LEN, student_spec, tiny_split


@pytest.fixture(scope="module")
def split():
    return tiny_split()


def rates_of(split, **train):
    """Learning rates of all steps of a training, in order, and its result."""
    seen = []
    handle = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        spec = student_spec("GRU4Rec", **train)
        found = fit(split, spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN)
    finally:
        handle.remove()
    return seen, found


def test_courses_by_hand():
    assert [COURSES["linear"](e, 4) for e in (1, 2, 3, 4)] == [1, 0.75, 0.5, 0.25]
    assert [COURSES["constant"](e, 4) for e in (1, 2, 3, 4)] == [1, 1, 1, 1]
    warm = [COURSES["warm-linear"](e, 20) for e in range(1, 21)]
    assert warm == pytest.approx([1 / 2, 1, *(k / 19 for k in range(18, 0, -1))])
    assert [COURSES["warm-linear"](e, 3) for e in (1, 2, 3)] == pytest.approx([1, 2 / 3, 1 / 3])


def test_warm_linear_is_transformers_schedule_read_once_an_epoch():
    transformers = pytest.importorskip("transformers")
    epochs, warm = 50, 5
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    # Theirs begins and ends at nothing; ours has no epoch without a rate and leaves both ends out.
    scheduler = transformers.get_linear_schedule_with_warmup(adam, warm, epochs + 1)
    for epoch in range(1, epochs + 1):
        adam.step()
        scheduler.step()
        assert COURSES["warm-linear"](epoch, epochs) == pytest.approx(scheduler.get_last_lr()[0])


def test_linear_is_torch_s_linear_scheduler(split):
    seen, found = rates_of(split, epochs=4, learning_rate=0.01, learning_rate_schedule="linear")
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(adam, start_factor=1.0, end_factor=0.25, total_iters=3)
    steps = len(seen) // 4
    assert len(seen) == 4 * steps
    for epoch in range(4):
        assert seen[epoch * steps : (epoch + 1) * steps] == pytest.approx(
            [scheduler.get_last_lr()[0]] * steps
        )
        adam.step()
        scheduler.step()
    assert found.epochs == 4


def test_a_rate_that_falls_to_nothing_ends_a_training_and_a_constant_one_cuts_it(split):
    limit = {"epochs": 2, "stopping_step": 10, "learning_rate": 0.001}
    assert rates_of(split, **limit, learning_rate_schedule="linear")[1].stopped_early
    assert not rates_of(split, **limit)[1].stopped_early


def test_the_first_epoch_is_that_of_a_constant_rate_and_the_second_is_not(split):
    falling, constant = (
        rates_of(split, epochs=2, learning_rate_schedule=name)[1].history for name in ("linear", "constant")
    )
    assert falling[0]["loss"] == constant[0]["loss"]
    assert falling[1]["loss"] != constant[1]["loss"]


def test_a_constant_rate_is_written_as_before_there_was_a_choice():
    train = student_spec("SASRec").train
    assert "learning_rate_schedule" not in train.canonical()
    assert train.digest() == train.model_copy(update={"learning_rate_schedule": "constant"}).digest()
    falling = train.model_copy(update={"learning_rate_schedule": "linear"})
    assert falling.canonical()["learning_rate_schedule"] == "linear"
    assert falling.digest() != train.digest()


def test_only_epochs_that_can_be_kept_are(split):
    train = {"epochs": 8, "stopping_step": 8, "learning_rate": 0.02, "learning_rate_schedule": "linear"}
    (_, anywhere), (_, late) = (rates_of(split, **train, keep_from=share) for share in (0.0, 0.875))
    values = [row["valid_ndcg@10"] for row in anywhere.history]
    assert [row["valid_ndcg@10"] for row in late.history] == values
    assert anywhere.best_epoch == 1 + values.index(max(values))
    assert anywhere.best_epoch < 8  # or this test says nothing
    assert late.best_epoch == 8


def test_no_epoch_left_out_is_written_as_before_there_was_a_choice():
    train = student_spec("SASRec").train
    assert "keep_from" not in train.canonical()
    late = train.model_copy(update={"keep_from": 0.75})
    assert late.canonical()["keep_from"] == 0.75
    assert late.digest() != train.digest()
    assert late.model_copy(update={"epochs": 80}).passed_over == 60
    assert late.model_copy(update={"epochs": 100, "keep_from": 0.29}).passed_over == 29


def test_a_trainer_that_would_not_read_them_refuses_them():
    train = student_spec("SASRec").train
    train.refuse_course("somebody")
    for update, said in (
        ({"learning_rate_schedule": "linear"}, "train.learning_rate_schedule: linear, but somebody"),
        ({"keep_from": 0.5}, "train.keep_from: 0.5, but somebody"),
    ):
        with pytest.raises(SpecError, match=said):
            train.model_copy(update=update).refuse_course("somebody")


def test_an_unknown_course_is_named_with_the_nearest():
    values = student_spec("SASRec").train.model_dump()
    with pytest.raises(ValidationError, match="no learning rate schedule 'liner'; did you mean 'linear'"):
        TrainSpec.model_validate({**values, "learning_rate_schedule": "liner"})
