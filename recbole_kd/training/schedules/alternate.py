"""Every k-th epoch, or every k-th batch, distils; the others do not see the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.training.schedules.base import Schedule

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec


class AlternateEpochs(Schedule):
    """alpha in epochs 1, 1 + k, 1 + 2k, ... up to ``distil_epochs`` (null: to the end of the run).

    k = ``alternate_every``; patience counts epochs of both sorts.
    """

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._every = spec.alternate_every

    def share(self, epoch: int) -> float:
        """1 in every k-th epoch, else 0."""
        return float((epoch - 1) % self._every == 0)


class AlternateBatches(Schedule):
    """alpha in steps 0, k, 2k, ... of the epochs up to ``distil_epochs`` (null: to the end of the run).

    Steps are counted over the whole run, so that no place in an epoch is preferred.
    """

    def __init__(self, spec: DistillSpec, epochs: int) -> None:
        super().__init__(spec, epochs)
        self._every = spec.alternate_every

    def share(self, epoch: int) -> float:
        """1."""
        return 1.0

    def distils(self, epoch: int, step: int) -> bool:
        """Whether ``step`` is a k-th one."""
        return step % self._every == 0 and super().distils(epoch, step)
