"""The distillation head: who contributes, what fits, what is refused."""

from __future__ import annotations

import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.models.head import DistillationHead, prepare_target
from tests.students import BACKBONES, distill_spec, student

KNOWN = torch.tensor([False, True, True, False, True])


def _head(**changes):
    torch.manual_seed(0)
    return DistillationHead(distill_spec(**changes), 6, torch.randn(5, 4), KNOWN, seed=1)


@pytest.mark.parametrize("objective", ["mse", "cosine"])
@pytest.mark.parametrize("projection", ["student", "teacher"])
def test_users_without_a_profile_contribute_nothing(objective, projection):
    head = _head(objective=objective, projection=projection)
    state = torch.randn(4, 6, requires_grad=True)
    user = torch.tensor([1, 3, 4, 0])
    loss = head(state, user)
    torch.testing.assert_close(loss, head(state[[0, 2]], user[[0, 2]]))
    loss.backward()
    assert bool((state.grad[[1, 3]] == 0).all())
    assert bool((state.grad[[0, 2]] != 0).any())


@pytest.mark.parametrize("objective", ["mse", "cosine"])
def test_a_batch_of_strangers_gives_zero_and_finite_gradients(objective):
    head = _head(objective=objective)
    state = torch.randn(2, 6, requires_grad=True)
    loss = head(state, torch.tensor([0, 3]))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert bool((state.grad == 0).all())


def test_targets_are_standardised_over_those_who_have_a_profile():
    vectors = torch.tensor([[9.0, 1.0], [1.0, 1.0], [3.0, 1.0], [9.0, 9.0]])
    mask = torch.tensor([False, True, True, False])
    got = prepare_target(vectors, mask, "standardised")
    # mean 2, population sd 1; the constant dimension becomes 0
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(prepare_target(vectors, mask, "unit")[1], torch.tensor([2.0, 2.0]).sqrt() / 2)
    assert bool((prepare_target(vectors, mask, "raw")[0] == 0).all())


def test_dimensions_that_do_not_fit_are_named():
    with pytest.raises(SpecError, match=r"layer -1 has 6 dimensions and the profiles have 4"):
        _head(projection="none")


def test_the_first_dimensions_alone_are_compared():
    head = _head(projection="first", objective="rmse", target="raw")
    state, user = torch.randn(2, 6, requires_grad=True), torch.tensor([1, 4])
    loss = head(state, user)
    by_hand = ((state[:, :4] - head.vectors[user, 0]) ** 2).mean().sqrt()
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert not state.grad[:, 4:].any()
    assert state.grad[:, :4].all()
    torch.testing.assert_close(head.student_side(state), state[:, :4])
    with pytest.raises(SpecError, match=r"layer -1 has 6 dimensions, fewer than the 7 of the profiles"):
        DistillationHead(distill_spec(projection="first"), 6, torch.randn(5, 7), KNOWN, seed=1)


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(SpecError, match="did you mean 'cosine'"):
        _head(objective="cosin")
    with pytest.raises(SpecError, match="exponential"):
        _head(pooling="max")


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_are_numbered_from_one(name):
    model = student(name)
    vectors, mask = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    n_layers = model.n_blocks()
    for layer in [*range(1, n_layers + 1), -1]:
        model.attach_teacher(distill_spec(layer=layer), vectors, mask, seed=0)
    for layer in (0, n_layers + 1, -2):
        with pytest.raises(SpecError, match=rf"layers 1..{n_layers}"):
            model.attach_teacher(distill_spec(layer=layer), vectors, mask, seed=0)


def test_the_head_has_a_stream_of_its_own():
    torch.manual_seed(7)
    _head()
    torch.manual_seed(0)
    torch.randn(5, 4)
    want = torch.rand(1)
    torch.manual_seed(0)
    DistillationHead(distill_spec(), 6, torch.randn(5, 4), KNOWN, seed=99)
    assert float(torch.rand(1)) == float(want)
