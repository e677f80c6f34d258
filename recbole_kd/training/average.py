"""Exponential moving average of the weights: what is validated, kept and served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """w_avg <- d w_avg + (1 - d) w after every step, with d = min(decay, (1 + n) / (10 + n)) at step n.

    Averaging the iterates (Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992) takes the step-to-step
    scatter out of the validation curve, so that the best epoch is less a matter of luck. The early d is
    smaller, so that the initial weights are forgotten.

    Parameters
    ----------
    model : nn.Module
        Must not be moved to another device afterwards.
    decay : float in [0, 1)
        0 keeps no average: the last weights are the ones validated.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights: list[Tensor] = list(model.parameters()) if decay > 0 else []
        self._average = [w.detach().clone() for w in self._weights]
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        if not self._weights:
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights and number of steps; not while they are :meth:`in_place`."""
        return {"steps": self._steps, "average": list(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self._steps = state["steps"]
        for average, value in zip(self._average, state["average"], strict=True):
            average.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside, the trained ones again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, weight in enumerate(self._weights):
            weight.data, self._average[i] = self._average[i], weight.data
