"""Distillation experts: several small networks from student to teacher, one chosen by the profile."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Experts(nn.Module):
    """s -> sum_e g_e MLP_e(s), g = softmax((log softmax(W t + b) + Gumbel noise) / T).

    DE of Kang et al. (CIKM 2020, arXiv 2012.04357): an expert has one hidden layer of (H + D) / 2 units with
    ReLU; T falls from ``hot`` to ``cold`` geometrically over the epochs that distil, so that the choice is
    soft at first and nearly hard in the end. In evaluation mode there is no noise.

    Parameters
    ----------
    student_dim, teacher_dim : int
        H, D.
    n_experts : int
    hot, cold : float
        Temperatures at the beginning and the end.
    generator : torch.Generator
        Of the weights and of the noise.
    """

    temperature: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        n_experts: int,
        hot: float,
        cold: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = (student_dim + teacher_dim) // 2
        self._generator, self._hot, self._cold = generator, hot, cold
        self.first = _weight(n_experts, student_dim, width, generator=generator)
        self.first_bias = nn.Parameter(torch.zeros(n_experts, width))
        self.second = _weight(n_experts, width, teacher_dim, generator=generator)
        self.second_bias = nn.Parameter(torch.zeros(n_experts, teacher_dim))
        self.gate = _weight(teacher_dim, n_experts, generator=generator)
        self.gate_bias = nn.Parameter(torch.zeros(n_experts))
        self.register_buffer("temperature", torch.tensor(float(hot)))

    def carried_state(self) -> dict[str, Any]:
        """State of the stream of the noise."""
        return {"stream": self._generator.get_state()}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put the stream where :meth:`carried_state` found it."""
        self._generator.set_state(state["stream"])

    def anneal(self, progress: float) -> None:
        """Set the temperature for a share ``progress`` in [0, 1] of distillation that is done."""
        share = min(max(progress, 0.0), 1.0)
        self.temperature.fill_(math.exp((1 - share) * math.log(self._hot) + share * math.log(self._cold)))

    def mixture(self, target: Tensor) -> Tensor:
        """Share of every expert for teacher vectors [B, D], [B, E]."""
        log_gate = (target @ self.gate + self.gate_bias).log_softmax(1)
        if self.training:
            uniform = torch.rand(log_gate.shape, generator=self._generator).clamp_min(1e-20)
            log_gate = log_gate - (-uniform.log()).log().to(log_gate)
        return (log_gate / self.temperature).softmax(1)

    def forward(self, state: Tensor, target: Tensor) -> Tensor:
        """Map states [B, H] towards teacher vectors [B, D] with the experts that these choose.

        Returns
        -------
        float [B, D]
        """
        hidden = F.relu(torch.einsum("bh,ehw->bew", state, self.first) + self.first_bias)
        out = torch.einsum("bew,ewd->bed", hidden, self.second) + self.second_bias
        return (out * self.mixture(target)[:, :, None]).sum(1)


def _weight(*shape: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).normal_(0.0, shape[-2] ** -0.5, generator=generator))
