"""All figures of an experiment by name: what the report shows and the ``figures`` verb writes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.all_tests import dataset_scores, over_datasets
from analysis.candidates import loop_frame
from analysis.cold_start import extra_slices
from analysis.figures.curves import parameter_curve, training_curves
from analysis.figures.forest import forest_plot
from analysis.figures.gains import gain_by_slice_plot, gain_distribution
from analysis.figures.overview import cost_quality_plot, critical_difference_diagram, space_map
from analysis.figures.style import save_figure
from analysis.load import Results, load_results
from analysis.slices import compare_slices
from analysis.space import ATTRIBUTE, read_spaces
from analysis.tables.cost import cost_frame


def per_backbone(results: Results) -> Iterator[tuple[str, str, Figure]]:
    """(name, title, figure) of the gains of single users and of the training curves."""
    for dataset, backbone in dict.fromkeys(m[:2] for m in results.methods() if results.cells(*m)):
        own = [m for m in results.methods() if m[:2] == (dataset, backbone) and results.cells(*m)]
        title, stem = f"{backbone} on {dataset}", f"{dataset}-{backbone}"
        if len(own) > 1 and any(m[2] == results.baseline for m in own):
            figure = gain_distribution(results, dataset, backbone)
            yield f"gain-distribution-{stem}", f"Gains of single users: {title}", figure
        cells = [c for m in own for c in results.cells(*m).values()]
        if any("valid_ndcg@10" in results.history(c) for c in cells):
            yield f"training-{stem}", f"Training: {title}", training_curves(results, dataset, backbone)


def overview(results: Results) -> Iterator[tuple[str, str, Figure]]:
    """(name, title, figure) of quality against cost and, over several datasets, average ranks."""
    if len(results.done):
        costs = cost_frame(results)
        # Means over fewer users are not comparable here; "serving-cost" has everybody on the same ones.
        costs = costs[~costs["partial"]]
        yield "cost", "Quality against training time", cost_quality_plot(results, frame=costs)
    timed = loop_frame(results)
    if len(timed):
        figure = cost_quality_plot(
            frame=timed, cost="p50_ms", xlabel="milliseconds per user, median, one at a time"
        )
        yield "serving-cost", "Quality against serving time, same users", figure
    scores, _ = dataset_scores(results)
    if scores.shape[0] >= 2 and scores.shape[1] >= 3:
        comparison, gaps = over_datasets(results)
        left_out = f" (without {', '.join(gaps)}, which lack a method)" if gaps else ""
        figure = critical_difference_diagram(comparison)
        yield "critical-difference", f"Average ranks over datasets{left_out}", figure


def spaces(results: Results) -> Iterator[tuple[str, str, Figure]]:
    """(name, title, figure) of profiles and students of the same users, where ``extras`` was run.

    Nothing without umap-learn (``recbole-kd[umap]``).
    """
    if importlib.util.find_spec("umap") is None:
        return
    for space in read_spaces(results):
        title = f"{space.backbone} on {space.dataset}, seed {space.seed}"
        figure = space_map(space.vectors, space.attribute, attribute_name=ATTRIBUTE)
        yield f"space-{space.dataset}", f"Profiles and students (UMAP): {title}", figure


def write_figures(
    experiment_dir: str | Path, *, parameters: Sequence[str] = (), masked: bool = False
) -> list[Path]:
    """Write every figure that the experiment has data for into ``<experiment>/figures/``.

    Parameters
    ----------
    experiment_dir : path
    parameters : sequence of str
        Swept parameters, each drawn against the primary metric.
    masked : bool

    Returns
    -------
    list of Path
        A PDF and a PNG per figure.
    """
    results = load_results(experiment_dir, masked=masked)
    folder = results.directory / "figures"
    # First, as only they can be named wrongly: then nothing is written.
    curves = {name: parameter_curve(results, name) for name in parameters}
    paths = save_figure(forest_plot(results), folder / "gains")
    found = compare_slices(results, "history")
    if found:
        paths += save_figure(gain_by_slice_plot(results, found=found), folder / "gain-by-history")
    for kind, slices in extra_slices(results):
        paths += save_figure(gain_by_slice_plot(results, found=slices), folder / f"gain-by-{kind}")
    for source in (per_backbone(results), overview(results), spaces(results)):
        for name, _, figure in source:
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            paths += save_figure(figure, folder / safe)
    for name, figure in curves.items():
        stem = "".join(c if c.isalnum() else "_" for c in name)
        paths += save_figure(figure, folder / f"curve-{stem}")
    return paths
