"""PCGrad against the paper's formula by hand, and against autograd where nothing conflicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_kd.errors import SpecError
from recbole_kd.training.gradients import backward_apart, get_conflict, pcgrad, watch
from tests.students import distill_spec, student_spec
from tests.training.test_schedules import _fit, profiles, split  # noqa: F401


def test_conflicting_gradients_lose_their_part_along_each_other():
    # g_1 = (1, 0, 2), g_2 = (-2, 1, 0) over two parameters: g_1 . g_2 = -2, norms^2 5 and 5
    rec = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    distil = [torch.tensor([-2.0, 1.0]), torch.tensor([0.0])]
    first, second, agreement = pcgrad(rec, distil)
    # g_1' = g_1 + 2/5 g_2, g_2' = g_2 + 2/5 g_1
    torch.testing.assert_close(torch.cat(first), torch.tensor([0.2, 0.4, 2.0]))
    torch.testing.assert_close(torch.cat(second), torch.tensor([-1.6, 1.0, 0.8]))
    assert float(torch.cat(first) @ torch.cat(distil)) == pytest.approx(0, abs=1e-6)
    assert float(torch.cat(second) @ torch.cat(rec)) == pytest.approx(0, abs=1e-6)
    assert float(agreement.cosine) == pytest.approx(-2 / 5)
    assert float(agreement.conflict) == 1


def test_gradients_that_agree_stay_as_they_are():
    rec, distil = [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 0.0])]
    for resolve in (pcgrad, watch):
        first, second, agreement = resolve(rec, distil)
        assert torch.equal(first[0], rec[0])
        assert torch.equal(second[0], distil[0])
        assert float(agreement.conflict) == 0
    _, _, agreement = pcgrad(rec, [torch.zeros(2)])
    assert float(agreement.cosine) == 0


def _two_losses():
    torch.manual_seed(0)
    body, head = nn.Linear(3, 3), nn.Linear(3, 2)
    unused = nn.Parameter(torch.ones(2))
    x = torch.randn(5, 3)
    h = body(x).tanh()
    return body, head, unused, h.square().mean() + unused.sum(), -(head(h) ** 2).mean() - h.sum()


def test_watching_gives_autograds_gradient_and_the_head_its_own():
    body, head, unused, rec, distil = _two_losses()
    own = list(head.parameters())
    backward_apart(rec, distil, [*body.parameters(), unused], own, watch)
    got = [p.grad.clone() for p in (*body.parameters(), unused, *own)]
    body, head, unused, rec, distil = _two_losses()
    (rec + distil).backward()
    for g, p in zip(got, (*body.parameters(), unused, *head.parameters()), strict=True):
        torch.testing.assert_close(g, p.grad)


def test_pcgrad_on_a_network_is_the_formula_over_all_shared_parameters():
    body, head, unused, rec, distil = _two_losses()
    shared = [*body.parameters(), unused]
    g = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in (rec, distil)]
    flat = [torch.cat([torch.zeros(2) if v is None else v.flatten() for v in side]) for side in g]
    dot = flat[0] @ flat[1]
    assert float(dot) < 0
    want = flat[0] - dot / flat[1].square().sum() * flat[1] + flat[1] - dot / flat[0].square().sum() * flat[0]
    backward_apart(rec, distil, shared, list(head.parameters()), pcgrad)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), want)


def test_watching_trains_as_ignoring_does_and_logs(split, profiles):  # noqa: F811
    runs = {
        how: _fit(split, student_spec("SASRec", distill_spec(gradient_conflict=how), epochs=3), profiles)[0]
        for how in ("ignore", "watch", "pcgrad")
    }
    losses = {how: [r["loss"] for r in run.history] for how, run in runs.items()}
    assert losses["watch"] == pytest.approx(losses["ignore"], rel=1e-4)
    assert losses["pcgrad"] != pytest.approx(losses["ignore"], rel=1e-5)
    assert "conflict_share" not in runs["ignore"].history[0]
    for how in ("watch", "pcgrad"):
        rows = runs[how].history
        assert all(0 <= r["conflict_share"] <= 1 and -1 <= r["gradient_cosine"] <= 1 for r in rows[:2])
        assert np.isnan(rows[2]["conflict_share"])
    assert max(r["conflict_share"] for r in runs["pcgrad"].history[:2]) > 0


def test_unknown():
    with pytest.raises(SpecError, match="did you mean 'pcgrad'"):
        get_conflict("pc-grad")
