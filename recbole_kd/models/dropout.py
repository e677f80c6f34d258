"""Dropout whose random numbers cost little on a CPU.

torch draws one 32-bit number per element (13 ns each on the reference machine, a third of a training
step). Here one random byte per element is compared with a threshold, so the probability is rounded to a
multiple of 1/256 and the scale uses the rounded one, which keeps the expectation exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.random_state import set_stream_state, stream_state


class ByteDropout:
    """Source of dropout masks with its own seeded stream.

    Parameters
    ----------
    seed : int
        Seeds the CPU stream. On other devices torch's own dropout is used.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.SFC64(seed))

    def state_dict(self) -> dict[str, Any]:
        """State of the stream."""
        return stream_state(self._rng)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the stream where :meth:`state_dict` found it."""
        set_stream_state(self._rng, state)

    @torch.compiler.disable  # its bytes would be taken for constants
    def keep(self, shape: torch.Size, p: float) -> tuple[Tensor, float]:
        """Draw a mask.

        Returns
        -------
        keep : bool tensor of ``shape``
        scale : float
            Inverse of the probability with which an element was kept.
        """
        threshold = min(255, round(p * 256))
        noise = np.frombuffer(bytearray(self._rng.bytes(shape.numel())), dtype=np.uint8)
        return (torch.from_numpy(noise) >= threshold).view(shape), 256.0 / (256 - threshold)

    def __call__(self, x: Tensor, p: float) -> Tensor:
        """Apply dropout with probability ``p`` to ``x`` (any shape)."""
        if p <= 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, p)
        mask, scale = self.keep(x.shape, p)
        return x * (mask * scale)

    def residual(self, x: Tensor, skip: Tensor, p: float) -> Tensor:
        """Return ``skip + dropout(x)`` with one pass less."""
        if p <= 0:
            return x + skip
        if x.device.type != "cpu":
            return F.dropout(x, p) + skip
        mask, scale = self.keep(x.shape, p)
        return torch.add(skip, x * mask, alpha=scale)
