"""What every schedule answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class Schedule:
    """alpha by epoch and step, and when distillation is over.

    A subclass gives :meth:`share`; the rest has a default that fits schedules which distil from epoch 1 to
    ``end``. Epochs count from 1, steps from 0 over the whole run.

    Parameters
    ----------
    spec : DistillSpec
    epochs : int
        Epoch limit of the run.

    Attributes
    ----------
    end : int or None
        Last epoch that can distil; None: it goes on as long as the run. Patience counts from ``end``, so
        that no run is stopped before its distillation is over; without an end it counts from the first
        epoch, as it does for the plain backbone.
    """

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        self._alpha, self._warm_up, self._epochs = spec.alpha, spec.warm_up_epochs, epochs
        self.end: int | None = spec.distil_epochs

    def share(self, epoch: int) -> float:
        """Factor of alpha in an epoch up to ``end``, in [0, 1], before warm-up."""
        raise NotImplementedError

    def alpha(self, epoch: int) -> float:
        """Share of the distillation loss in the steps of ``epoch`` that distil.

        In the first ``warm_up_epochs`` = w epochs alpha rises as epoch / (w + 1), whatever the schedule.
        """
        if self.over(epoch):
            return 0.0
        return self._alpha * self.share(epoch) * min(1.0, epoch / (self._warm_up + 1))

    def distils(self, epoch: int, step: int) -> bool:
        """Whether ``step`` (from 0, counted over the whole run) of ``epoch`` distils."""
        return self.alpha(epoch) > 0

    def over(self, epoch: int) -> bool:
        """Whether no step of ``epoch`` or later distils."""
        return self.end is not None and epoch > self.end

    @property
    def patience_from(self) -> int:
        """Epoch after which patience begins to count."""
        return self.end or 0

    def plateau(self, epoch: int) -> bool:
        """Patience is spent after ``epoch``: True if the schedule has more to do all the same."""
        return False

    def last_epoch(self) -> int:
        """Epoch after which the run ends whatever the validation says."""
        return self._epochs

    def state_dict(self) -> dict[str, Any]:
        """What epochs that are over have decided."""
        return {"end": self.end}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.end = state["end"]

    def _needs_end(self, name: str) -> None:
        if self.end is None:
            raise SpecError(
                f"distill.distil_epochs: null, but schedule {name} needs the number of its epochs."
            )
