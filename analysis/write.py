"""What a sweep leaves beside ``experiment.json``: table, figure, comparisons.

The files hold no date, host or path: a resumed sweep writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

from pathlib import Path

from analysis.candidates import FILE as CANDIDATES
from analysis.comparison import compare, comparison_frame
from analysis.files import write_atomic
from analysis.load import load_results
from analysis.table import csv_text
from analysis.tables import candidates_table, main_table, protocol_table


def write_outputs(experiment_dir: str | Path, *, masked: bool = False, figures: bool = True) -> list[Path]:
    """Write the main table, its figure and every comparison of an experiment, finished or not.

    Parameters
    ----------
    experiment_dir : path
        Folder with ``experiment.json``.
    masked : bool
        See `analysis.load.load_results`.
    figures : bool
        Draw the forest plot too; False saves its second while a sweep still runs.

    Returns
    -------
    list of Path
        ``table.md`` (below it every method on the same candidates, where there are any, and the
        protocol), ``table.csv``, ``table.tex``, ``comparisons.csv`` (all
        metrics, one family), ``gains.pdf``, ``gains.png``.

    Raises
    ------
    StoreError
        ``experiment.json`` is unreadable or the folder cannot be written.
    """
    results = load_results(experiment_dir, masked=masked)
    primary = compare(results)
    table = main_table(results, comparisons=primary)
    folder = results.directory
    parts = [table, protocol_table(results)]
    if (folder / CANDIDATES).is_file():
        parts.insert(1, candidates_table(results))
    paths = [
        write_atomic(folder / "table.md", "\n".join(part.to_markdown() for part in parts)),
        write_atomic(folder / "table.csv", table.to_csv()),
        write_atomic(folder / "table.tex", table.to_latex()),
        write_atomic(
            folder / "comparisons.csv", csv_text(comparison_frame(compare(results, metrics=results.metrics)))
        ),
    ]
    if figures:
        from analysis.figures import forest_plot, save_figure

        paths += save_figure(forest_plot(results, primary), folder / "gains")
    return paths
