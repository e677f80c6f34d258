"""Byte dropout keeps the expectation and follows its own stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_kd.models.dropout import ByteDropout, Places


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_share_and_expectation(p):
    x = torch.ones(400, 1000)
    y = ByteDropout(0)(x, p)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(p, abs=1 / 256)
    assert float(y.mean()) == pytest.approx(1.0, abs=6 * (p / (1 - p) / x.numel()) ** 0.5)
    assert len(y.unique()) == 2


def test_residual_is_skip_plus_dropout():
    x, skip = torch.randn(50, 60), torch.randn(50, 60)
    torch.testing.assert_close(ByteDropout(5).residual(x, skip, 0.3), skip + ByteDropout(5)(x, 0.3))


def test_zero_is_the_identity_and_draws_nothing():
    x = torch.randn(3, 4)
    dropout = ByteDropout(1)
    assert dropout(x, 0.0) is x
    torch.testing.assert_close(dropout(x, 0.5), ByteDropout(1)(x, 0.5))


def test_a_part_has_the_mask_of_the_whole_and_the_stream_goes_on_alike():
    x, row, column = torch.randn(6, 5, 4), np.array([0, 2, 2, 5]), np.array([4, 0, 3, 1])
    whole, part = ByteDropout(3), ByteDropout(3)
    places = Places(x.shape, (row, column))
    for _ in range(2):
        assert torch.equal(part(x[row, column], 0.5, places), whole(x, 0.5)[row, column])
    skip = torch.randn(4, 4)
    assert torch.equal(
        part.residual(x[row, column], skip, 0.5, places),
        whole.residual(x, torch.zeros_like(x), 0.5)[row, column] + skip,
    )


def test_gradient_passes_only_through_what_was_kept():
    x = torch.randn(20, 20, requires_grad=True)
    y = ByteDropout(2)(x, 0.5)
    y.sum().backward()
    assert bool(((x.grad == 0) == (y == 0)).all())


def test_global_stream_is_untouched():
    torch.manual_seed(0)
    ByteDropout(0)(torch.ones(10), 0.5)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert float(after) == float(torch.rand(1))


def test_masks_are_drawn_outside_of_a_compiled_graph():
    """Inside, the bytes of a draw were constants: the graph was compiled anew at every step."""
    x, plain, drawn = torch.ones(4, 8), ByteDropout(3), ByteDropout(3)
    quick = torch.compile(lambda x: drawn(x, 0.5) * 2, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            assert torch.equal(quick(x), plain(x, 0.5) * 2)


def test_quick_bytes_are_those_of_the_generator():
    """Whatever the size: an odd one leaves half a number behind, which the next draw begins with."""
    dropout, plain = ByteDropout(7), np.random.Generator(np.random.SFC64(7))
    for n in (64, 800, 12, 64, 5, 8):
        expected = np.frombuffer(plain.bytes(n), np.uint8) >= 77
        assert torch.equal(dropout.keep(torch.Size((n,)), 77 / 256)[0], torch.from_numpy(expected))
