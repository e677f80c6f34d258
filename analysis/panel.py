"""Ranks of all runs of one dataset, aligned on the same (user, target) rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_kd.metrics import per_user


@dataclass(frozen=True)
class Panel:
    """Ranks of one dataset, one row per run and one column per (user, target).

    Attributes
    ----------
    dataset : str
    targets : DataFrame [N]
        ``user`` and ``item`` (categorical tokens) with ``train_len``, ``history_len`` and
        ``item_count``; sorted by user, then item.
    cells : tuple of str [R]
        Cell digests, the rows of ``rank``.
    rank : float32 [R, N]
        Average-tie rank among the candidates; NaN where a run did not evaluate the target.
    """

    dataset: str
    targets: pd.DataFrame
    cells: tuple[str, ...]
    rank: NDArray[np.float32]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {cell: row for row, cell in enumerate(self.cells)}

    @cached_property
    def user_codes(self) -> NDArray[np.intp]:
        """0-based user of every target, ascending, intp [N]."""
        codes, _ = pd.factorize(self.targets["user"], sort=False)
        return np.asarray(codes, dtype=np.intp)

    @cached_property
    def users(self) -> pd.DataFrame:
        """First target row of every user: one row per user [U]."""
        return self.targets.drop_duplicates("user").reset_index(drop=True)

    @property
    def n_users(self) -> int:
        """Number of users U evaluated by at least one run."""
        return int(self.user_codes[-1]) + 1 if len(self.user_codes) else 0

    def target_values(self, cells: Sequence[str], metric: str) -> NDArray[np.float64]:
        """Metric of every target, float64 [len(cells), N]; NaN where not evaluated."""
        rank = self.rank[[self._rows[c] for c in cells]].astype(np.float64)
        absent = np.isnan(rank)
        if not absent.any():
            return per_user(rank, metric)
        values = per_user(np.where(absent, np.inf, rank), metric)
        values[absent] = np.nan
        return values

    def user_values(
        self, cells: Sequence[str], metric: str, keep: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Metric of every user, averaged over the user's own targets.

        Parameters
        ----------
        cells : sequence of str
        metric : str
        keep : bool [N], optional
            Only these targets count (a slice by target item, for instance).

        Returns
        -------
        float64 [len(cells), U]
            NaN where a run evaluated none of the user's (kept) targets.
        """
        values = self.target_values(cells, metric)
        if keep is not None:
            values[:, ~keep] = np.nan
        if self.n_users == len(self.targets):
            return values
        result = np.empty((len(cells), self.n_users))
        for row, line in enumerate(values):
            known = ~np.isnan(line)
            count = np.bincount(self.user_codes[known], minlength=self.n_users)
            total = np.bincount(self.user_codes[known], weights=line[known], minlength=self.n_users)
            result[row] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return result
