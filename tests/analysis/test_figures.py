"""Figures draw the numbers that the tables hold, for whole and partial results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from synthetic import latent_ranks, write_experiment

from analysis.all_tests import over_datasets
from analysis.comparison import compare
from analysis.figures import (
    cost_quality_plot,
    critical_difference_diagram,
    figure_bytes,
    forest_plot,
    gain_by_slice_plot,
    gain_distribution,
    parameter_curve,
    pareto_front,
    save_figure,
    space_map,
    training_curves,
)
from analysis.figures.every import write_figures
from analysis.figures.overview import _cliques
from analysis.figures.style import COLOURS, variant_colours
from analysis.load import Results, load_results
from analysis.parameters import curve_frame, parameter
from analysis.slices import compare_slices
from analysis.values import pair_layout
from recbole_kd.errors import SpecError, StoreError


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_forest_plot_draws_the_comparisons(results: Results) -> None:
    comparisons = compare(results)
    axes = forest_plot(results, comparisons).axes[0]
    segments = [line for line in axes.lines if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
    drawn = {tuple(np.round(line.get_xdata(), 12)) for line in segments}
    for c in comparisons:
        assert c.result is not None
        assert (round(c.result.low, 12), round(c.result.high, 12)) in drawn
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(points) == len(comparisons)
    filled = [line.get_markerfacecolor() != "white" for line in points]
    assert filled == [c.result is not None and c.result.p_corrected < 0.05 for c in comparisons]


def test_forest_plot_of_partial_results(partial: Path) -> None:
    figure = forest_plot(load_results(partial))
    assert "not available" in texts(figure)


def test_untrusted_names_are_drawn_as_text(tmp_path: Path) -> None:
    name = "kd $\\frac{$ & <b>"
    results = load_results(write_experiment(tmp_path, latent_ranks(30), variants=("plain", name)))
    figure = forest_plot(results)
    assert name in texts(figure)
    assert figure_bytes(figure, "pdf").startswith(b"%PDF")


def test_colours_are_the_same_in_every_figure(results: Results) -> None:
    colour = variant_colours(results)
    assert colour["plain"] == "#000000"
    assert len(set(colour.values())) == 4
    assert set(colour.values()) <= set(COLOURS)


def test_slices_and_distribution(results: Results) -> None:
    found = compare_slices(results, "history")
    figure = gain_by_slice_plot(results, found=found)
    assert "trend p" in texts(figure)
    drawn = np.concatenate([line.get_ydata() for line in figure.axes[0].lines])
    assert found[0].slices[0].result is not None
    assert np.isclose(drawn, found[0].slices[0].result.estimate).any()
    share = gain_distribution(results, "toy", "SASRec")
    panel = results.panels["toy"]
    cells = {v: list(results.cells("toy", "SASRec", v).values()) for v in ("kd-llm", "plain")}
    a, b = (panel.user_values(c, "NDCG@10") for c in cells.values())
    up = round(100 * float(((a - b).mean(axis=0) > 0).mean()))
    assert f"kd-llm: {up} % up" in texts(share)


def test_training_curves_mark_the_end_of_distillation(results: Results) -> None:
    figure = training_curves(results, "toy", "SASRec")
    dotted = [line for axes in figure.axes for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert {line.get_xdata()[0] for line in dotted} == {5.5}
    curve = figure.axes[0].lines[0]
    expected = pd.concat([results.history(c) for c in results.cells("toy", "SASRec", "plain").values()])
    np.testing.assert_allclose(curve.get_ydata(), expected.groupby("epoch")["valid_ndcg@10"].mean())


def test_what_was_never_trained_has_no_curve(tmp_path: Path) -> None:
    """Histories of re-rankers know epochs, but neither a validation metric nor a loss of the students."""
    home = write_experiment(tmp_path, latent_ranks(20), variants=("plain", "llm"), seeds=(0,))
    for path in (tmp_path / "runs").iterdir():
        if "llm" in path.name:
            pd.DataFrame({"epoch": [0, 1], "loss": [0.7, 0.6]}).to_parquet(path / "history.parquet")
    figure = training_curves(load_results(home), "toy", "SASRec")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain"]


def test_every_figure_has_room_for_many_variants(tmp_path: Path) -> None:
    """More than there are kinds of lines, markers and colours."""
    variants = ("plain", *(f"a-variant-with-a-long-name-{i}" for i in range(8)))
    results = load_results(write_experiment(tmp_path, latent_ranks(40), variants=variants, seeds=(0, 1)))
    figures = [forest_plot(results), gain_by_slice_plot(results), cost_quality_plot(results)]
    figures += [f(results, "toy", "SASRec") for f in (gain_distribution, training_curves)]
    for figure in figures:
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        box = figure.get_tightbbox()
        assert box.x0 > -0.05, figure
        assert box.x1 < width / figure.dpi + 0.05
        assert box.y1 - box.y0 < height / figure.dpi + 0.05
        # What is drawn is not squeezed to nothing by its legend.
        assert min(axes.get_position().height * height / figure.dpi for axes in figure.axes) > 0.6


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    directory = write_experiment(root, latent_ranks(40), variants=("plain", "a0.1", "a0.5", "a0.9"))
    for run in (root / "runs").iterdir():
        variant = run.name.split("-")[2]
        distill = None if variant == "plain" else {"alpha": float(variant[1:]), "inner": {"beta": 1}}
        spec = {"student": {"distill": distill}, "other": {"inner": {"beta": 2}}}
        (run / "spec.yaml").write_text(yaml.safe_dump(spec))
    return directory


def test_parameter_curve(sweep: Path) -> None:
    results = load_results(sweep)
    frame = curve_frame(results, "alpha")
    assert frame["value"].tolist()[:3] == [0.1, 0.5, 0.9]
    assert np.isnan(frame["value"].iloc[3])
    figure = parameter_curve(results, "student.distill.alpha", xlabel="alpha")
    x = figure.axes[0].lines[0].get_xdata()
    assert list(x) == [0.1, 0.5, 0.9]
    with pytest.raises(SpecError, match="ambiguous"):
        parameter(results, "beta")


def test_a_parameter_that_no_run_has_is_an_error(sweep: Path) -> None:
    with pytest.raises(SpecError, match="'alhpa': no run has it; did you mean 'alpha'"):
        parameter_curve(load_results(sweep), "alhpa")
    with pytest.raises(SpecError, match=r"did you mean 'student\.distill\.alpha'"):
        parameter(load_results(sweep), "student.distil.alpha")
    with pytest.raises(SpecError, match="alhpa"):
        write_figures(sweep, parameters=["alhpa"])
    assert not (sweep / "figures").exists()


def test_a_parameter_without_a_finished_run_is_an_empty_figure(tmp_path: Path) -> None:
    every = [("toy", "SASRec", v, s) for v in ("plain", "kd") for s in (0, 1, 2)]
    results = load_results(write_experiment(tmp_path, latent_ranks(5), skip=every))
    frame = curve_frame(results, "alpha")
    assert len(frame) == 0
    assert {"dataset", "value", "mean"} <= set(frame.columns)
    assert "no finished run" in texts(parameter_curve(results, "alpha"))


def test_a_line_joins_only_runs_that_differ_in_the_parameter(tmp_path: Path) -> None:
    """Neither a placebo at the same value nor another schedule is a point of the same curve."""
    settings: dict[str, dict[str, object]] = {
        **{f"two@{a}": {"alpha": a, "schedule": "two-phase"} for a in (0.1, 0.4, 0.8)},
        **{f"all@{a}": {"alpha": a, "schedule": "constant"} for a in (0.8, 0.1)},
        "kd-shuffled": {"alpha": 0.4, "schedule": "two-phase", "placebo": "shuffled"},
    }
    directory = write_experiment(tmp_path, latent_ranks(40), variants=("plain", *settings), seeds=(0, 1))
    for run in (tmp_path / "runs").iterdir():
        label = json.loads((run / "manifest.json").read_text())["label"]
        spec = {"student": {"distill": settings.get(label["variant"])}, "seed": label["seed"]}
        (run / "spec.yaml").write_text(yaml.safe_dump(spec | {"inputs": {"made": label["variant"]}}))
    figure = parameter_curve(load_results(directory), "alpha")
    drawn = {tuple(bar.lines[0].get_xdata()) for bar in figure.axes[0].containers}
    assert drawn == {(0.1, 0.4, 0.8), (0.1, 0.8), (0.4,)}
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == len(set(legend)) == 3
    assert any("kd-shuffled" in text for text in legend)


def test_malformed_spec_is_one_line(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(5), variants=("plain",), seeds=(0,))
    (tmp_path / "runs" / "toy-sasrec-plain-0" / "spec.yaml").write_text("- a\n- b\n")
    with pytest.raises(StoreError, match=r"spec\.yaml: expected a mapping"):
        parameter(load_results(directory), "alpha")


def test_pareto_front_by_hand() -> None:
    cost = np.array([1.0, 2.0, 3.0, 3.0, 0.5])
    quality = np.array([0.5, 0.7, 0.6, 0.9, 0.5])
    assert pareto_front(cost, quality).tolist() == [False, True, False, True, True]


def test_cost_quality_with_systems_from_elsewhere() -> None:
    shared = {"dataset": "d", "metric": "NDCG@10"}
    rows = [
        shared | {"backbone": "SASRec", "variant": "plain", "mean": 0.1, "cost_ms": 1.0},
        shared | {"backbone": "LLM", "variant": "re-ranker", "mean": 0.2, "cost_ms": 900.0},
    ]
    figure = cost_quality_plot(frame=pd.DataFrame(rows), cost="cost_ms", xlabel="ms per user")
    assert figure.axes[0].get_xscale() == "log"
    assert "re-ranker" in texts(figure)


def test_cliques_by_hand() -> None:
    names = list("abcd")
    p = pd.DataFrame(1.0, index=names, columns=names)
    p.loc["a", "c"] = p.loc["c", "a"] = p.loc["a", "d"] = p.loc["d", "a"] = 0.01
    ranks = pd.Series([1.2, 2.0, 3.0, 3.8], index=names)
    assert _cliques(ranks, p, 0.05) == [(1.2, 2.0), (2.0, 3.8)]


def test_critical_difference_over_datasets(tmp_path: Path) -> None:
    directory = write_experiment(
        tmp_path,
        latent_ranks(60, {"kd": 1.0}),
        datasets=[f"d{i}" for i in range(5)],
        variants=("plain", "kd", "other"),
        seeds=(0,),
        skip=[("d4", "SASRec", "other", 0)],
    )
    comparison, gaps = over_datasets(load_results(directory))
    assert gaps == ["d4"]
    assert comparison.friedman.n == 4
    assert comparison.ranks.index[0] == "SASRec kd"
    shown = texts(critical_difference_diagram(comparison))
    assert "average rank over 4 datasets" in shown
    assert "CD" in shown


def test_space_map_refuses_unequal_rows() -> None:
    with pytest.raises(ValueError, match="rows"):
        space_map({"teacher": np.zeros((5, 2))}, [1, 2])


@pytest.mark.slow
def test_space_map() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=60)
    figure = space_map({"teacher": rng.normal(size=(60, 5)) + 4 * group[:, None]}, [f"g{k}" for k in group])
    points = figure.axes[0].collections[0].get_offsets()
    centres = np.array([points[group == k].mean(axis=0) for k in range(3)])
    spread = max(points[group == k].std() for k in range(3))
    gaps = [np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 2 * spread


def test_files_are_reproducible_and_one_column_wide(results: Results, tmp_path: Path) -> None:
    figure = forest_plot(results)
    assert figure.get_size_inches()[0] == pytest.approx(3.35)
    assert figure_bytes(figure, "pdf") == figure_bytes(forest_plot(results), "pdf")
    assert [p.name for p in save_figure(figure, tmp_path / "x.y")] == ["x.y.pdf", "x.y.png"]


@pytest.mark.parametrize(("high", "shown"), [(1e8, "1e6"), (900.0, "500")])
def test_logarithmic_axes_have_plain_labels(high: float, shown: str):
    """Mathematics is off, so matplotlib's own labels would be shown as source."""
    from analysis.figures.style import log_axis, new_figure, style

    with style():
        figure = new_figure(2.0)
        axes = figure.add_subplot()
        axes.plot([200.0, high], [1.0, 2.0])
        log_axis(axes)
        found = texts(figure)
    assert shown in found.splitlines()
    assert "mathdefault" not in found


def test_few_places_are_named_on_a_logarithmic_axis():
    from analysis.figures.style import log_axis, new_figure, style

    with style():
        figure = new_figure(2.0)
        axes = figure.add_subplot()
        axes.plot([0.25, 0.5, 1.0], [1.0, 2.0, 3.0])
        log_axis(axes, places=[0.5, 0.25, 1.0])
        figure.canvas.draw()
        assert [t.get_text() for t in axes.get_xticklabels()] == ["0.25", "0.5", "1"]


def test_noise_of_averaging_is_no_gain(tmp_path: Path) -> None:
    """The same three values in another order: their means differ in the last digits only."""
    order = {"plain": (2.0, 3.0, 6.0), "kd": (6.0, 2.0, 3.0)}
    results = load_results(write_experiment(tmp_path, lambda d, b, v, s: np.full(20, order[v][s])))
    layout, _ = pair_layout(results, "toy", ("SASRec", "kd"), ("SASRec", "plain"), "MRR@20")
    assert layout is not None
    assert layout.differences.mean(axis=0).any(), "no noise: choose other ranks"
    share = gain_distribution(results, "toy", "SASRec", metric="MRR@20")
    assert "kd: 0 % up, 0 % down" in texts(share)
