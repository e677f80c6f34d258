"""Mean and deviation of every method, nothing tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.load import Results
from recbole_kd.metrics import standard_name

Method = tuple[str, str, str]


@dataclass(frozen=True)
class Summary:
    """Mean over users of each seed, then mean and sd (ddof 1) over seeds, of one method."""

    method: Method
    metric: str
    means: tuple[float, ...]
    n_users: int
    partial: bool

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without runs."""
        return float(np.mean(self.means)) if self.means else float("nan")

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; NaN with fewer than two."""
        return float(np.std(self.means, ddof=1)) if len(self.means) > 1 else float("nan")


def summarise(results: Results, metrics: Sequence[str] | None = None) -> dict[tuple[Method, str], Summary]:
    """`Summary` of every planned method on every metric.

    ``partial`` says that a run of the method evaluated fewer users than the dataset has.
    """
    names = [standard_name(m) for m in (metrics or results.metrics)]
    found: dict[tuple[Method, str], Summary] = {}
    for dataset in dict.fromkeys(results.runs["dataset"]):
        panel = results.panels.get(dataset)
        for metric in names:
            values = panel.user_values(panel.cells, metric) if panel else np.empty((0, 0))
            rows = {cell: values[i] for i, cell in enumerate(panel.cells)} if panel else {}
            for method in (m for m in results.methods() if m[0] == dataset):
                mine = [rows[c] for c in results.cells(*method).values()]
                counts = [int((~np.isnan(v)).sum()) for v in mine]
                found[(method, metric)] = Summary(
                    method=method,
                    metric=metric,
                    means=tuple(float(np.nanmean(v)) for v in mine),
                    n_users=min(counts, default=0),
                    partial=any(n < values.shape[1] for n in counts),
                )
    return found


def summary_frame(results: Results, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per method and metric: ``mean``, ``sd``, ``n_seeds``, ``n_users``."""
    rows = [
        dict(zip(("dataset", "backbone", "variant"), s.method, strict=True))
        | {"metric": s.metric, "mean": s.mean, "sd": s.sd, "n_seeds": len(s.means), "n_users": s.n_users}
        for s in summarise(results, metrics).values()
    ]
    return pd.DataFrame(rows)
