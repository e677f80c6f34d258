"""nn.GRU, layer by layer, so that every layer's output can be distilled; trained on a CPU by its own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def gru_layers(gru: nn.GRU, x: Tensor) -> list[Tensor]:
    """Run a unidirectional ``nn.GRU`` without biases and keep each layer's output.

    Training on a CPU in float32 goes through :class:`_Layer`; everything else is torch's own.

    Parameters
    ----------
    gru : nn.GRU
        As RecBole's GRU4Rec builds it: ``bias=False, batch_first=True``, no dropout between layers.
    x : float [B, L, E]

    Returns
    -------
    list of num_layers tensors [B, L, H]
    """
    outputs = []
    state = x.new_zeros(1, x.shape[0], gru.hidden_size)
    for k in range(gru.num_layers):
        weights = [getattr(gru, f"weight_ih_l{k}"), getattr(gru, f"weight_hh_l{k}")]
        if gru.training and torch.is_grad_enabled() and _plain(x):
            x = _Layer.apply(x, *weights)
        else:
            x = torch.gru(x, state, weights, False, 1, 0.0, gru.training, False, True)[0]
        outputs.append(x)
    return outputs


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Layer(torch.autograd.Function):
    """One layer of torch's ``nn.GRU`` without biases, from a state of zeros.

    r, z = sigmoid(W_ir x + W_hr h), sigmoid(W_iz x + W_hz h); n = tanh(W_in x + r * W_hn h);
    h' = (1 - z) n + z h. torch differentiates some twenty operations of every position one by one; here
    everything that does not wait for the next position is computed for all of them at once, and a position
    is left with six operations, backwards with six.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> Tensor:
        b, length, _ = x.shape
        h = weight_hh.shape[1]
        inputs = x.transpose(0, 1).reshape(length * b, -1)  # position after position
        gates = (inputs @ weight_ih.t()).view(length, b, 3 * h)
        reset_update, new = gates[..., : 2 * h], gates[..., 2 * h :]
        # From the state before a position: what its three gates read.
        recurrent = x.new_empty(length, b, 3 * h)
        states = x.new_zeros(length + 1, b, h)
        columns = weight_hh.t()
        of_new, r, z = recurrent[..., 2 * h :], gates[..., :h], gates[..., h : 2 * h]
        steps = (reset_update, new, recurrent, recurrent[..., : 2 * h], of_new, r, z, states[:-1], states[1:])
        by_step = zip(*(s.unbind(0) for s in steps), strict=True)
        for rz, n, read, read_rz, read_n, r_t, z_t, before, after in by_step:
            torch.mm(before, columns, out=read)
            rz.add_(read_rz).sigmoid_()
            n.addcmul_(r_t, read_n).tanh_()
            torch.lerp(n, before, z_t, out=after)
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, of_new, states)
        return states[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, weight_ih, weight_hh, gates, of_new, states = ctx.saved_tensors
        length, b, h = of_new.shape
        r, z, n = gates.unflatten(2, (3, h)).unbind(2)
        # Of every gate's sum, by the gradient of the state after it: d gate = slope * d h'.
        slope = gates.new_empty(3, length, b, h)
        slope_r, slope_z, slope_n = slope
        own = torch.ops.aten.tanh_backward(1 - z, n)
        torch.mul(own, r, out=slope_n)  # by way of W_hn h, which r multiplies
        torch.ops.aten.sigmoid_backward(own * of_new, r, grad_input=slope_r)
        torch.ops.aten.sigmoid_backward(states[:-1] - n, z, grad_input=slope_z)
        of_states = grad.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # becomes d h' in full
        d_gates = torch.empty_like(gates)
        carried = of_states.new_zeros(b, h)
        parts = (of_states, *slope, *d_gates.view(length, b, 3, h).unbind(2), d_gates, z)
        backwards = zip(*(p.unbind(0)[::-1] for p in parts), strict=True)
        for d_h, s_r, s_z, s_n, d_r, d_z, d_n, flat, z_t in backwards:
            d_h += carried
            torch.mul(s_r, d_h, out=d_r)
            torch.mul(s_z, d_h, out=d_z)
            torch.mul(s_n, d_h, out=d_n)
            carried = torch.addmm(d_h * z_t, flat, weight_hh)
        d_weight_hh = d_gates.view(length * b, -1).t() @ states[:-1].reshape(length * b, h)
        # The inputs' part of n is not multiplied by r.
        torch.mul(own, of_states, out=d_gates[..., 2 * h :])
        flat = d_gates.view(length * b, -1)
        d_inputs = (flat @ weight_ih).view(length, b, -1).transpose(0, 1)
        return d_inputs, flat.t() @ inputs, d_weight_hh
