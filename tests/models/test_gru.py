"""The GRU layer that is trained on a CPU, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_kd.models.gru import _Layer, gru_layers


def make(layers: int, **kwargs: object) -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(5, 4, layers, bias=False, batch_first=True, **kwargs)


def test_gradients_are_those_of_the_outputs():
    gru = make(1, dtype=torch.float64)
    x = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    weights = (gru.weight_ih_l0, gru.weight_hh_l0)
    assert torch.autograd.gradcheck(_Layer.apply, (x, *weights))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (8, 20)])
def test_training_equals_torch(shape):
    gru, x = make(2), torch.randn(*shape, 5, requires_grad=True)
    wanted, (of_x, *of_weights) = gru(x)[0], [x, *gru.parameters()]
    grad = torch.randn(shape[1], shape[0], 4).transpose(0, 1)
    given = grad.clone()
    expected = torch.autograd.grad(wanted, [of_x, *of_weights], grad)
    outputs = gru_layers(gru, x)
    assert all("_Layer" in type(out.grad_fn).__name__ for out in outputs)
    torch.testing.assert_close(outputs[-1], wanted)
    for mine, theirs in zip(
        torch.autograd.grad(outputs[-1], [of_x, *of_weights], grad), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(grad, given), "the gradient of whoever reads the outputs is not ours to change"


def test_a_layer_in_the_middle_can_be_distilled():
    gru, x = make(2), torch.randn(3, 6, 5)
    first = nn.GRU(5, 4, 1, bias=False, batch_first=True)
    first.load_state_dict({"weight_ih_l0": gru.weight_ih_l0, "weight_hh_l0": gru.weight_hh_l0})
    outputs = gru_layers(gru, x)
    torch.testing.assert_close(outputs[0], first(x)[0])
    (outputs[0].square().sum() + outputs[1].sum()).backward()
    expected = torch.autograd.grad(
        first(x)[0].square().sum() + gru(x)[0].sum(), [*first.parameters(), *gru.parameters()]
    )
    torch.testing.assert_close(gru.weight_hh_l0.grad, expected[1] + expected[3])


def test_gradients_of_two_losses_come_from_one_graph():
    """As where conflicts are resolved: the graph of the first is kept for the second."""
    gru, x = make(1), torch.randn(3, 6, 5)
    out, wanted = gru_layers(gru, x)[-1], gru(x)[0]
    for loss in (torch.sum, torch.Tensor.std):
        mine = torch.autograd.grad(loss(out), list(gru.parameters()), retain_graph=True)
        theirs = torch.autograd.grad(loss(wanted), list(gru.parameters()), retain_graph=True)
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("served", ["evaluation", "no gradient", "double"])
def test_everything_else_is_torchs_own(served):
    gru, x = make(1), torch.randn(3, 6, 5)
    if served == "evaluation":
        gru.eval()
    if served == "double":
        gru, x = gru.double(), x.double()
    with torch.set_grad_enabled(served != "no gradient"):
        assert torch.equal(gru_layers(gru, x)[-1], gru(x)[0])
