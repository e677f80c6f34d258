"""Distil as long as it helps, then a short fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.errors import SpecError
from recbole_kd.training.schedules.base import Schedule

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class FineTuneLast(Schedule):
    """alpha until validation no longer improves, then the last n = ``fine_tune_epochs`` without the teacher.

    Phase 1 ends when patience is spent, at the latest n epochs before the epoch limit (with an epoch count
    that is met, and patience that is not, this is the paper's fixed budget seen from its end). Phase 2 goes
    on from the weights of that moment, without patience, for n epochs. ``distil_epochs`` is not used.
    """

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._n = spec.fine_tune_epochs
        if self._n >= epochs:
            raise SpecError(
                f"distill.fine_tune_epochs: {self._n} of at most {epochs} epochs leave none to distil; "
                "lower it or raise train.epochs."
            )
        self.end = epochs - self._n

    def share(self, epoch: int) -> float:
        """1."""
        return 1.0

    @property
    def patience_from(self) -> int:
        """Patience counts from the first epoch: it is what ends phase 1."""
        return 0

    def plateau(self, epoch: int) -> bool:
        """End phase 1; in phase 2 patience has no say."""
        assert self.end is not None
        self.end = min(self.end, epoch)
        return self._n > 0

    def last_epoch(self) -> int:
        """n epochs after the end of phase 1."""
        assert self.end is not None
        return min(self._epochs, self.end + self._n)
