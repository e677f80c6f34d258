"""Tasks whose files another process is still making while the first cells train."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recbole_kd.benchmark.artefacts import Artefacts, Making
from recbole_kd.benchmark.executor import CellTask

Make = Callable[[dict[str, Artefacts]], Sequence[CellTask]]


class LateTasks:
    """See :class:`recbole_kd.benchmark.engines.Late`.

    Parameters
    ----------
    making : Child
        The process; its next result is the files of every cell that is late.
    count : int
        How many tasks there will be at most.
    make : callable
        Files of cells -> their tasks.
    """

    def __init__(self, making: Making, count: int, make: Make) -> None:
        self.count = count
        self.taken = False
        self._making, self._make = making, make

    def ready(self) -> bool:
        """Whether :meth:`take` returns, or raises, without waiting."""
        return self._making.done()

    def take(self) -> Sequence[CellTask]:
        """Hand the tasks over, once.

        Raises
        ------
        UserError
            The files cannot be made.
        """
        self.taken = True
        return self._make(self._making.result())
