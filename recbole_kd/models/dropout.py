"""Dropout whose random numbers cost little on a CPU.

torch draws one 32-bit number per element (13 ns each on the reference machine, a third of a training
step). Here one random byte per element is compared with a threshold, so the probability is rounded to a
multiple of 1/256 and the scale uses the rounded one, which keeps the expectation exact. Comparison and factor
are numpy's: torch's loops over bytes and booleans are not vectorised on a CPU and take ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.random_state import set_stream_state, stream_state


@dataclass(frozen=True)
class Places:
    """Where a tensor lies in a larger one that is not computed as a whole.

    Its mask is drawn as a part of the larger one's: who computes all of it, and whoever computes a part, have
    the same mask at the same place, and their stream goes on alike.

    Attributes
    ----------
    shape : torch.Size
        Of the larger tensor.
    index : tuple of int64 arrays
        numpy's: the larger tensor at ``index`` has the shape of the smaller one.
    """

    shape: torch.Size
    index: tuple[NDArray[np.int64], ...]


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
        kept, scale = self._kept(shape, p)
        return torch.from_numpy(kept), scale

    def _kept(
        self, shape: torch.Size, p: float, places: Places | None = None
    ) -> tuple[NDArray[np.bool_], float]:
        threshold = min(255, round(p * 256))
        drawn = shape if places is None else places.shape
        noise = np.frombuffer(self._bytes(drawn.numel()), dtype=np.uint8, count=drawn.numel()).reshape(drawn)
        chosen = noise if places is None else noise[places.index]
        return chosen >= np.uint8(threshold), 256.0 / (256 - threshold)

    def _bytes(self, n: int) -> Any:
        """At least ``n`` bytes; ``Generator.bytes`` draws the same numbers in twice the time."""
        if n % 8 or self._rng.bit_generator.state["has_uint32"]:
            return self._rng.bytes(n)
        return self._rng.bit_generator.random_raw(n // 8).astype("<u8", copy=False)

    @torch.compiler.disable
    def _factors(self, x: Tensor, p: float, scaled: bool, places: Places | None) -> tuple[Tensor, float]:
        """``scale`` (1 if not ``scaled``) where an element of ``x`` is kept, else 0; and ``scale``."""
        kept, scale = self._kept(x.shape, p, places)
        factor = np.float32(scale if scaled else 1.0)
        return torch.from_numpy(np.multiply(kept.view(np.uint8), factor, dtype=np.float32)), scale

    def __call__(self, x: Tensor, p: float, places: Places | None = None) -> Tensor:
        """Apply dropout with probability ``p`` to ``x`` of any shape, which may lie in something larger."""
        if p <= 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, p)
        return x * self._factors(x, p, scaled=True, places=places)[0]

    def residual(self, x: Tensor, skip: Tensor, p: float, places: Places | None = None) -> Tensor:
        """Return ``skip + dropout(x)`` with one pass less."""
        if p <= 0:
            return x + skip
        if x.device.type != "cpu":
            return F.dropout(x, p) + skip
        mask, scale = self._factors(x, p, scaled=False, places=places)
        return torch.add(skip, x * mask.to(x.dtype), alpha=scale)
