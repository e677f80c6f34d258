"""Values per user of all runs of one dataset on one metric, and their shared resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.load import Results
from analysis.panel import Panel
from analysis.stats.paired import bootstrap_means

FloatArray = NDArray[np.float64]


class UserValues:
    """Metric of every run and user, computed once for all comparisons.

    Parameters
    ----------
    panel : Panel
    metric : str
    keep : bool [N], optional
        Only these targets count; users without one are left out altogether.
    n_resamples, seed : int
        Of the bootstrap over users. Runs that evaluated every user share their resamples.
    """

    def __init__(
        self,
        panel: Panel,
        metric: str,
        *,
        keep: NDArray[np.bool_] | None = None,
        n_resamples: int = 0,
        seed: int = 0,
    ) -> None:
        values = panel.user_values(panel.cells, metric, keep)
        known = ~np.isnan(values)
        self.users = np.flatnonzero(known.any(axis=0))
        self._values = values if len(self.users) == values.shape[1] else values[:, self.users]
        self._complete: NDArray[np.bool_] = np.all(known[:, self.users], axis=1)
        self._rows = {cell: row for row, cell in enumerate(panel.cells)}
        self._n, self._seed = n_resamples, seed

    @property
    def n_users(self) -> int:
        """Users that at least one run evaluated."""
        return len(self.users)

    def of(self, cells: Sequence[str]) -> FloatArray:
        """Values of runs, float64 [len(cells), U]; NaN where a run lacks the user."""
        return self._values[[self._rows[c] for c in cells]]

    def complete(self, cells: Sequence[str]) -> bool:
        """Whether there are runs and all of them evaluated every user."""
        return bool(cells) and all(self._complete[self._rows[c]] for c in cells)

    def draw(self, values: FloatArray) -> FloatArray:
        """Resampled means [B, len(values)] of values [., U] without gaps."""
        rng = np.random.default_rng(self._seed)
        return bootstrap_means(np.ascontiguousarray(values.T), n_resamples=self._n, rng=rng)

    @cached_property
    def _means(self) -> FloatArray:
        means = np.full((self._n, len(self._values)), np.nan)
        if self._complete.any():
            means[:, self._complete] = self.draw(self._values[self._complete])
        return means

    def means(self, method: Sequence[str], baseline: Sequence[str], users: NDArray[np.intp]) -> FloatArray:
        """Resampled means of both sides on their common users.

        Parameters
        ----------
        method, baseline : sequence of str
            Cells of both sides, paired.
        users : int [U']
            Columns (of `of`) that both sides have.

        Returns
        -------
        float64 [2, B, S]
            Method, then baseline.
        """
        rows = np.array([self._rows[c] for c in (*method, *baseline)], dtype=np.intp)
        if len(users) == self.n_users and self._complete[rows].all():
            both = self._means[:, rows]
        else:
            both = self.draw(self._values[np.ix_(rows, users)])
        return np.stack([both[:, : len(method)], both[:, len(method) :]])


@dataclass(frozen=True)
class Layout:
    """Both sides of a comparison on common users and seeds.

    Attributes
    ----------
    method, baseline : float64 [S, U]
    users : int [U]
        Rows of ``Panel.users``.
    columns : int [U]
        The same users as columns of the `UserValues` that the layout was taken from.
    cells : tuple of two tuples of str
        Runs of the method and of the baseline, one per seed.
    """

    method: FloatArray
    baseline: FloatArray
    users: NDArray[np.intp]
    columns: NDArray[np.intp]
    cells: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def differences(self) -> FloatArray:
        """Method minus baseline, float64 [S, U]."""
        return self.method - self.baseline


def pair_layout(
    results: Results,
    dataset: str,
    method: tuple[str, str],
    baseline: tuple[str, str],
    metric: str,
    *,
    values: UserValues | None = None,
) -> tuple[Layout | None, tuple[int, ...]]:
    """Both sides of a comparison on the seeds and users that they share.

    Parameters
    ----------
    method, baseline : tuple of str
        (backbone, variant).
    values : UserValues, optional
        Of this dataset and metric, when the caller has them already.

    Returns
    -------
    Layout or None, tuple of int
        None if there is no common seed or fewer than two common users; and the common seeds.
    """
    left, right = (results.cells(dataset, *m) for m in (method, baseline))
    seeds = tuple(s for s in left if s in right)
    if not seeds:
        return None, seeds
    source = values or UserValues(results.panels[dataset], metric)
    cells = (tuple(left[s] for s in seeds), tuple(right[s] for s in seeds))
    a, b = (source.of(c) for c in cells)
    columns = np.flatnonzero(~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0)))
    if len(columns) < 2:
        return None, seeds
    return Layout(a[:, columns], b[:, columns], source.users[columns], columns, cells), seeds
