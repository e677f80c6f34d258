"""The blocked loss against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_kd.models import cross_entropy
from recbole_kd.models.cross_entropy import ROWS_MULTIPLE, catalogue_cross_entropy
from recbole_kd.models.stacked import _StackedCrossEntropy
from recbole_kd.models.tiled_cross_entropy import tiled_cross_entropy


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("n_tokens", [1, 64, 1000])
def test_value_and_gradients_equal_torch(with_bias, n_tokens, monkeypatch):
    monkeypatch.setattr(cross_entropy, "BLOCK_BYTES", 1)  # blocks of 64 rows: several of them
    torch.manual_seed(0)
    h = torch.randn(n_tokens, 8, dtype=torch.float64, requires_grad=True)
    items = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(50, dtype=torch.float64, requires_grad=True) if with_bias else None
    target = torch.randint(0, 50, (n_tokens,))
    inputs = [x for x in (h, items, bias) if x is not None]
    logits = h @ items.t() if bias is None else h @ items.t() + bias
    want = F.cross_entropy(logits, target)
    got = catalogue_cross_entropy(h, items, target, bias)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(3 * got, inputs), torch.autograd.grad(3 * want, inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("tiled", [False, True])
def test_items_that_learn_nothing_get_no_gradient(tiled, dtype):
    def loss(h, items, target, bias):
        if tiled:
            return tiled_cross_entropy(h, items, target, bias, dtype=dtype, rows=64, columns=20)
        return catalogue_cross_entropy(h, items, target, bias, dtype=dtype)

    torch.manual_seed(0)
    h = torch.randn(100, 8, requires_grad=True)
    items, bias = torch.randn(50, 8), torch.randn(50, requires_grad=True)
    target = torch.randint(0, 50, (100,))
    want = torch.autograd.grad(loss(h, items.clone().requires_grad_(), target, bias), [h, bias])
    frozen = loss(h, items, target, bias)
    assert frozen.grad_fn.grads[1] is None
    for a, b in zip(torch.autograd.grad(frozen, [h, bias]), want, strict=True):
        assert torch.equal(a, b)


def test_gradcheck():
    torch.manual_seed(0)
    h = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    items = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 7, (5,))
    assert torch.autograd.gradcheck(lambda a, b: catalogue_cross_entropy(a, b, target), (h, items))


def test_no_token_no_loss():
    items = torch.randn(4, 3, requires_grad=True)
    loss = catalogue_cross_entropy(torch.zeros(0, 3), items, torch.zeros(0, dtype=torch.long))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert bool((items.grad == 0).all())


def test_huge_logits_stay_finite():
    h, items = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    assert float(catalogue_cross_entropy(h, items, torch.tensor([0, 0]))) == 0.0


@pytest.mark.parametrize("n_tokens", [1, 15, 16, 17, 130, 333])
def test_lower_products_have_few_shapes_and_rows_filled_up_say_nothing(n_tokens, monkeypatch):
    sizes = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
                sizes.update(args[0].shape, args[1].shape)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(cross_entropy, "BLOCK_BYTES", 1)  # strips of 32 rows
    monkeypatch.setattr(cross_entropy, "LOWER_ROWS", 64)  # several blocks of two strips
    torch.manual_seed(0)
    h = torch.randn(n_tokens, 8, requires_grad=True)
    items, bias = torch.randn(50, 8, requires_grad=True), torch.randn(50, requires_grad=True)
    target = torch.randint(0, 50, (n_tokens,))
    with Products():
        low = catalogue_cross_entropy(h, items, target, bias, dtype=torch.bfloat16)
        got = torch.autograd.grad(low, [h, items, bias])
    assert len(sizes) > 2
    assert all(size % ROWS_MULTIPLE == 0 for size in sizes - {8})
    exact = F.cross_entropy(h @ items.t() + bias, target)
    assert float(low.detach()) == pytest.approx(float(exact.detach()), abs=0.02)
    for a, b in zip(got, torch.autograd.grad(exact, [h, items, bias]), strict=True):
        assert float((a - b).norm() / b.norm()) < 0.01


def test_bfloat16_products_stay_close():
    torch.manual_seed(0)
    h = (0.5 * torch.randn(300, 64)).requires_grad_()
    items = (0.3 * torch.randn(500, 64)).requires_grad_()
    target = torch.randint(0, 500, (300,))
    exact = catalogue_cross_entropy(h, items, target)
    low = catalogue_cross_entropy(h, items, target, dtype=torch.bfloat16)
    assert abs(float(exact.detach()) - float(low.detach())) < 1e-3
    for a, b in zip(
        torch.autograd.grad(exact, (h, items)), torch.autograd.grad(low, (h, items)), strict=True
    ):
        assert float((a - b).norm() / a.norm()) < 0.01


def tiled(h, items, target, bias, dtype):
    return tiled_cross_entropy(h, items, target, bias, dtype=dtype, rows=64, columns=100)


def stacked(h, items, target, bias, dtype):
    weight = torch.full((1, len(target)), 1 / len(target))
    return _StackedCrossEntropy.apply(h[None], items[None], bias[None], target[None], weight, dtype).sum()


def blocks(h, items, target, bias, dtype):
    return catalogue_cross_entropy(h, items, target, bias, dtype=dtype)


@pytest.mark.parametrize("loss", [blocks, tiled, stacked])
def test_bfloat16_survives_what_all_items_have_in_common(loss):
    """Rounded with the items, it drowned them; and its own gradient, which is zero, was mere error."""
    torch.manual_seed(0)
    h = (0.5 * torch.randn(300, 64)).requires_grad_()
    items = (0.3 * torch.randn(500, 64) + 20 * torch.randn(64)).requires_grad_()
    bias = torch.randn(500).requires_grad_()
    target = torch.randint(0, 500, (300,))
    wanted = F.cross_entropy((h.double() @ items.double().T + bias.double()), target)
    found = loss(h, items, target, bias, torch.bfloat16)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=2e-3)
    exact, low = (torch.autograd.grad(value, (h, items, bias)) for value in (wanted, found))
    for a, b in zip(exact, low, strict=True):
        assert float((a - b).norm() / a.norm()) < 0.01
    assert float(low[1].sum(0).abs().max()) < 1e-6
