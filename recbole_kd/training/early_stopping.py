"""When to stop, and which epoch to keep."""

from __future__ import annotations

from typing import Any

_STATE = ("_warm_up", "best_value", "best_epoch", "stop")


class EarlyStopping:
    """Stop after ``patience`` epochs without a better value; never inside the warm-up.

    Parameters
    ----------
    patience : int
        RecBole's ``stopping_step``.
    warm_up : int
        Epochs before patience begins to count (phase 1 of a distilled run). The best value may still be
        reached there.
    passed_over : int
        Epochs at the beginning that cannot be the best one; patience counts after them too.
    """

    def __init__(self, patience: int, warm_up: int = 0, passed_over: int = 0) -> None:
        self._patience, self._passed_over = patience, passed_over
        self._warm_up = max(warm_up, passed_over)
        self.best_value = float("-inf")
        self.best_epoch = 0
        self.stop = False

    def update(self, epoch: int, value: float) -> bool:
        """Record the value of ``epoch`` (from 1); return True if it is the best so far."""
        if epoch <= self._passed_over:
            return False
        better = value > self.best_value
        if better:
            self.best_value, self.best_epoch = value, epoch
        waited = epoch - max(self.best_epoch, self._warm_up)
        self.stop = epoch > self._warm_up and waited >= self._patience
        return better

    def renew(self, epoch: int) -> None:
        """Begin to wait anew after ``epoch``; the best value so far stays the one to beat."""
        self._warm_up, self.stop = epoch, False

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, and since when patience counts."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        for name in _STATE:
            setattr(self, name, state[name])
