"""All tests of every comparison side by side, and what the data could have shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import wording
from analysis.all_tests import evidence
from analysis.load import Results
from analysis.table import Cell, Column, Table


def _labels(row: dict[str, Any]) -> list[Cell]:
    return [Cell(str(row["dataset"])), Cell(f"{row['backbone']} {row['variant']}")]


def evidence_table(results: Results, frame: pd.DataFrame | None = None, *, digits: int = 4) -> Table:
    """p-values of every test on the primary metric, corrected, each naming its unit.

    Parameters
    ----------
    frame : DataFrame, optional
        Of `analysis.all_tests.evidence`.
    """
    found = evidence(results) if frame is None else frame
    heads = {
        "p_two_level_corrected": "users x seeds",
        "p_t_corrected": "t, users",
        "p_wilcoxon_corrected": "Wilcoxon, users",
        "p_sign_flip_corrected": "sign flip, users",
        "p_seeds_corrected": "t, seeds",
        "p_tost": "TOST",
    }
    rows = []
    for row in found.to_dict("records"):
        cells = _labels(row)
        cells.append(Cell(wording.signed(row["estimate"], digits), sort=row["estimate"]))
        bca = f"[{wording.signed(row['bca_low'], digits)}, {wording.signed(row['bca_high'], digits)}]"
        cells.append(Cell(bca, sort=row["bca_low"]))
        cells += [Cell(wording.p_value(row.get(k)), sort=row.get(k)) for k in heads]
        cells += [
            Cell(wording.number(row.get(k), 2), sort=row.get(k)) for k in ("p_worse", "p_equal", "p_better")
        ]
        cells += [
            Cell(wording.signed(row[k], 3), sort=row[k]) for k in ("cohens_d_z", "cliffs_d_w", "cliffs_delta")
        ]
        rows.append(tuple(cells))
    columns = [Column("Dataset", "l"), Column("Method", "l"), Column("\u0394"), Column("BCa 95 %")]
    columns += [Column(name) for name in heads.values()]
    columns += [Column(n) for n in ("worse", "equal", "better", "d_z", "d_w", "Cliff's \u0394")]
    return Table(
        name="tests",
        title=f"{results.experiment}: every test on {results.metrics[0]}",
        caption=(
            f"Against '{results.baseline}'. p-values Holm-corrected over the planned comparisons, one "
            "family per test (TOST uncorrected); the unit over which each generalises stands in its "
            "heading. Tests over users alone hold the trained models fixed, the test over seeds holds "
            "the users fixed; only 'users x seeds' covers both. BCa: interval over users of the "
            "seed-averaged difference. TOST and worse / equal / better (Bayesian signed-rank over "
            "users) use a margin of 1 % of the baseline. d_w: share of users better off minus share "
            "worse off. TOST has the seed variance of the comparison alone."
        ),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=results.problems,
        frame=found,
    )


def _needed(value: float) -> Cell:
    """Infinite: the search found no number. NaN: nothing is known to search with."""
    return Cell(
        "none suffices" if value == float("inf") else wording.number(value, 0, thousands=True), sort=value
    )


def power_table(results: Results, frame: pd.DataFrame | None = None) -> Table:
    """Smallest gain that these users and seeds could have shown, and what +1 % would need."""
    found = evidence(results) if frame is None else frame
    rows = []
    for row in found.to_dict("records"):
        cells = _labels(row)
        cells += [
            Cell(str(row["n_users"]), sort=row["n_users"]),
            Cell(str(row["n_seeds"]), sort=row["n_seeds"]),
        ]
        small = row.get("detectable_percent", float("nan"))
        shown = wording.number(small, 1)
        cells.append(Cell(f"{shown} %" if np.isfinite(small) else shown, sort=small))
        cells.append(Cell(wording.number(row.get("power_1_percent"), 2), sort=row.get("power_1_percent")))
        cells += [_needed(row.get(k, float("nan"))) for k in ("users_for_1_percent", "seeds_for_1_percent")]
        rows.append(tuple(cells))
    return Table(
        name="power",
        title=f"{results.experiment}: power on {results.metrics[0]}",
        caption=(
            "Smallest relative gain found with probability .80 at the two-sided uncorrected level .05, "
            "from the variance components of each comparison (users, their interaction with the seeds, and "
            "the seeds, as in the test over users x seeds); the "
            "power for a gain of 1 %; and the users or seeds that 1 % would need with the other number "
            "as it is. Components are estimates themselves, that of the seeds from few."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Method", "l"),
            Column("Users"),
            Column("Seeds"),
            Column("Detectable gain"),
            Column("Power for +1 %"),
            Column("Users for +1 %"),
            Column("Seeds for +1 %"),
        ),
        rows=tuple(rows),
        notes=results.problems,
        frame=found,
    )
