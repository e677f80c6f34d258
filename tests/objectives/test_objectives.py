"""What every objective must pass: gradients, weights, users without a profile, the registry's word."""

from __future__ import annotations

import inspect

import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.objectives import OBJECTIVES, get_objective
from recbole_kd.objectives.ranked import RankedBatch
from tests.conftest import ROOT
from tests.objectives.cases import bound, defaults, inputs, rows

EVERY = sorted(OBJECTIVES)
# Weights without a gradient are switched off: numerical differences see them move.
DETACHED = {"ranking_distillation": {"discrepancy": 0.0}, "dllm2rec": {"consistency": 0.0}}


@pytest.mark.parametrize("name", EVERY)
def test_gradient(name):
    student, teacher, weight = inputs(name)
    objective = bound(name, **DETACHED.get(name, {}))
    student.requires_grad_()
    if isinstance(teacher, RankedBatch) or OBJECTIVES[name].kind in ("attributes", "cluster"):
        assert torch.autograd.gradcheck(lambda s: objective(s, teacher, weight), (student,))
    else:
        teacher.requires_grad_()
        assert torch.autograd.gradcheck(lambda s, t: objective(s, t, weight), (student, teacher))


@pytest.mark.parametrize("name", EVERY)
def test_users_without_a_profile_change_neither_value_nor_gradient(name):
    """Not even when what stands in their rows is not a number."""
    student, teacher, weight = inputs(name)
    there = weight > 0 if weight.dim() == 1 else (weight > 0).any(1)
    objective = bound(name)
    alone = student[there].clone().requires_grad_()
    want = objective(alone, rows(teacher, there), weight[there])
    want.backward()
    student[~there] = 1e3
    if not isinstance(teacher, RankedBatch):
        teacher[weight == 0] = -1e3 if OBJECTIVES[name].kind != "attributes" else 1.0
    student.requires_grad_()
    got = objective(student, teacher, weight)
    got.backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(student.grad[there], alone.grad)
    assert bool((student.grad[~there] == 0).all())
    assert float(want.detach().abs()) > 0
    assert float(alone.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", EVERY)
def test_a_bool_weight_is_a_weight_of_one(name):
    student, teacher, weight = inputs(name)
    objective = bound(name)
    torch.testing.assert_close(
        objective(student, teacher, weight > 0), objective(student, teacher, (weight > 0).double())
    )


@pytest.mark.parametrize("name", EVERY)
def test_nobody_and_one_user_give_a_finite_loss_and_gradient(name):
    student, teacher, weight = inputs(name)
    for known in ([], [2]):
        sparse = torch.zeros_like(weight)
        sparse[known] = weight[known]
        state = student.clone().requires_grad_()
        loss = bound(name)(state, teacher, sparse)
        loss.backward()
        assert bool(torch.isfinite(state.grad).all())
        assert bool(torch.isfinite(loss))
        if not known:
            assert float(loss.detach()) == 0.0
            assert bool((state.grad == 0).all())


@pytest.mark.parametrize("name", EVERY)
def test_a_state_of_zeros_has_a_finite_gradient(name):
    student, teacher, weight = inputs(name)
    state = torch.zeros_like(student).requires_grad_()
    loss = bound(name)(state, teacher, weight)
    loss.backward()
    assert bool(torch.isfinite(state.grad).all())
    assert bool(torch.isfinite(loss))


@pytest.mark.parametrize("name", EVERY)
def test_order_of_users_does_not_matter(name):
    student, teacher, weight = inputs(name)
    shuffle = torch.tensor([3, 0, 5, 4, 1, 2])
    torch.testing.assert_close(
        bound(name)(student[shuffle], rows(teacher, shuffle), weight[shuffle]),
        bound(name)(student, teacher, weight),
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_step_down_the_gradient_lowers_it(name):
    student, teacher, weight = inputs(name)
    state = student.clone().requires_grad_()
    objective = bound(name)
    before = objective(state, teacher, weight)
    (gradient,) = torch.autograd.grad(before, state)
    step = 1e-4 / gradient.norm()
    assert float(objective(student - step * gradient, teacher, weight)) < float(before)


@pytest.mark.parametrize("name", EVERY)
def test_the_registry_says_what_the_function_takes(name):
    objective = get_objective(name)
    signature = inspect.signature(objective.function).parameters
    asked = [p.name for p in signature.values() if p.kind is p.KEYWORD_ONLY]
    assert asked == list(objective.parameters)
    assert set(defaults(name)) == {*objective.parameters, *objective.setup}
    assert all(p.default is p.empty for p in signature.values())
    objective.args.model_validate(defaults(name))


def test_every_file_of_defaults_belongs_to_an_objective():
    assert {p.stem for p in (ROOT / "properties" / "objective").glob("*.yaml")} <= set(OBJECTIVES)


def test_an_unknown_name_is_refused_with_a_hint():
    with pytest.raises(SpecError, match="did you mean 'infonce'"):
        get_objective("infonc")
