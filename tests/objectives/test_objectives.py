"""Objectives against hand-computed examples, the mask, and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_kd.objectives import OBJECTIVES, get_objective

STUDENT = torch.tensor([[1.0, 0.0], [3.0, 4.0], [7.0, 7.0]])
TEACHER = torch.tensor([[0.0, 2.0], [4.0, 3.0], [0.0, 0.0]])
MASK = torch.tensor([True, True, False])
ARGS = {"huber": {"delta": 1.0}}

BY_HAND = {
    # rows: (1 + 4) / 2 = 2.5 and (1 + 1) / 2 = 1
    "mse": 1.75,
    # cosines 0 and 24 / 25
    "cosine": 1 - 0.48,
    # rows: (0.5 + 1.5) / 2 = 1 and (0.5 + 0.5) / 2 = 0.5
    "huber": 0.75,
}


def bound(name):
    return get_objective(name).bind(ARGS.get(name, {}))


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_by_hand(name):
    assert math.isclose(float(bound(name)(STUDENT, TEACHER, MASK)), BY_HAND[name], rel_tol=1e-6)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradient(name):
    torch.manual_seed(0)
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True, True, True, False])
    assert torch.autograd.gradcheck(lambda s, t: bound(name)(s, t, mask), (student, teacher))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_masked_rows_do_not_matter(name):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    mask = torch.tensor([True, False, True, True, True, False])
    objective = bound(name)
    torch.testing.assert_close(
        objective(student, teacher, mask), objective(student[mask], teacher[mask], mask[mask])
    )
