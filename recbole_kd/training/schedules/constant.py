"""No fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.training.schedules.base import Schedule

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class Constant(Schedule):
    """alpha to the end of the run: one multi-task loss. ``distil_epochs`` is not used."""

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self.end = None

    def share(self, epoch: int) -> float:
        """1."""
        return 1.0
