"""Distillation experts: the gate follows the profile and hardens, the mixture is what the paper says."""

from __future__ import annotations

import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.models.experts import Experts
from recbole_kd.models.head import DistillationHead
from tests.students import distill_spec


def _experts(**changes):
    settings = {"n_experts": 4, "hot": 1.0, "cold": 0.01, **changes}
    return Experts(6, 5, **settings, generator=torch.Generator().manual_seed(0))


def test_the_mixture_is_the_sum_over_experts_of_gate_times_mlp():
    experts = _experts().eval()
    state, target = torch.randn(3, 6), torch.randn(3, 5)
    gate = torch.softmax((target @ experts.gate + experts.gate_bias).log_softmax(1), 1)
    want = torch.zeros(3, 5)
    for e in range(4):
        hidden = torch.relu(state @ experts.first[e] + experts.first_bias[e])
        want += gate[:, e : e + 1] * (hidden @ experts.second[e] + experts.second_bias[e])
    torch.testing.assert_close(experts(state, target), want)
    torch.testing.assert_close(experts.mixture(target).sum(1), torch.ones(3))


def test_noise_in_training_only_and_a_hard_choice_in_the_end():
    experts = _experts()
    target = torch.randn(200, 5)
    assert not torch.equal(experts.mixture(target), experts.mixture(target))
    experts.eval()
    assert torch.equal(experts.mixture(target), experts.mixture(target))
    soft = experts.mixture(target).max(1).values.mean()
    experts.anneal(1.0)
    assert float(experts.temperature) == pytest.approx(0.01)
    assert float(experts.mixture(target).max(1).values.mean()) > 0.95 > float(soft)
    experts.anneal(0.5)
    assert float(experts.temperature) == pytest.approx(0.1)


def test_gumbel_choice_has_the_probabilities_of_the_gate():
    experts = _experts(cold=1e-4)
    experts.anneal(1.0)
    target = torch.randn(1, 5).repeat(20000, 1)
    wanted = torch.softmax(target[0] @ experts.gate + experts.gate_bias, 0)
    found = experts.mixture(target).mean(0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_the_head_takes_experts_on_the_student_side_only():
    vectors, known = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    spec = distill_spec(objective="experts", projector="experts")
    head = DistillationHead(spec, 6, vectors, known, seed=1)
    loss = head(torch.randn(3, 6), torch.tensor([1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None for p in head.parameters())
    head.anneal(1.0)
    assert float(head.projection.temperature) == pytest.approx(0.01)
    with pytest.raises(SpecError, match="experts"):
        DistillationHead(distill_spec(projector="experts", projection="teacher"), 6, vectors, known, seed=1)
