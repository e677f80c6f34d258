"""alpha falls from epoch to epoch and is 0 after ``distil_epochs``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from recbole_kd.training.schedules.base import Schedule

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class Linear(Schedule):
    """alpha_e = alpha (1 - (e - 1) / E), E = ``distil_epochs``."""

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._needs_end("linear")

    def share(self, epoch: int) -> float:
        """1 in epoch 1, 1 / E in epoch E."""
        return 1 - (epoch - 1) / (self.end or 1)


class Cosine(Schedule):
    """alpha_e = alpha / 2 (1 + cos(pi (e - 1) / E)), E = ``distil_epochs`` (Loshchilov and Hutter, 2017)."""

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._needs_end("cosine")

    def share(self, epoch: int) -> float:
        """1 in epoch 1, 1/2 in the middle, near 0 in epoch E."""
        return (1 + math.cos(math.pi * (epoch - 1) / (self.end or 1))) / 2
