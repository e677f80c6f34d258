"""The paper's schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.training.schedules.base import Schedule

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class TwoPhase(Schedule):
    """alpha for ``distil_epochs`` epochs, then the recommendation loss alone (Severin et al., ECIR 2026)."""

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._needs_end("two-phase")

    def share(self, epoch: int) -> float:
        """1."""
        return 1.0
