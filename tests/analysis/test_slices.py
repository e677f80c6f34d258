"""Slices against direct selection; a planted interaction is found, an equal gain is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import latent_ranks, write_experiment

from analysis.comparison import compare
from analysis.load import Results, load_results
from analysis.slices import (
    by_history,
    by_new_users,
    by_popularity,
    by_value,
    compare_slices,
    slice_frame,
    whole_number_slices,
)
from analysis.tables import slice_table
from recbole_kd.errors import SpecError


def test_history_edges_by_hand(results: Results) -> None:
    panel = results.panels["toy"]
    slicing = by_history(edges=[5, 10, 11])(panel)
    assert slicing.labels == ("\u2264 5 items", "6\u201310 items", "11 items", "> 11 items")
    lengths = panel.targets["train_len"].to_numpy()
    expected = np.select([lengths <= 5, lengths <= 10, lengths <= 11], [0, 1, 2], 3)
    np.testing.assert_array_equal(slicing.codes, expected)


def test_a_count_of_nothing_is_called_so() -> None:
    slicing = whole_number_slices("item", np.array([0, 1, 9]), [0, 5], "uses")
    assert slicing.labels == ("0 uses", "1\u20135 uses", "> 5 uses")
    assert list(slicing.codes) == [0, 1, 2]


def test_history_quantiles_are_even(results: Results) -> None:
    panel = results.panels["toy"]
    slicing = by_history(quantiles=3)(panel)
    assert np.bincount(slicing.codes).min() > 300 * 0.25


def test_popularity_and_new_users(results: Results) -> None:
    panel = results.panels["toy"]
    slicing = by_popularity(0.3)(panel)
    count = panel.targets["item_count"].to_numpy()
    assert (count[slicing.codes == 2].min(initial=10**9)) > count[slicing.codes == 1].max(initial=0)
    new = by_new_users(5)(panel)
    np.testing.assert_array_equal(new.codes == 0, panel.targets["train_len"].to_numpy() <= 5)


def test_by_value_leaves_out_unknown_users(results: Results) -> None:
    panel = results.panels["toy"]
    values = {f"u{i:05d}": float(i) for i in range(90)}
    slicing = by_value("grounding", values, quantiles=3)(panel)
    assert (slicing.codes == -1).sum() == 210
    assert np.bincount(slicing.codes[slicing.codes >= 0]).tolist() == [30, 30, 30]
    nothing = by_value("grounding", pd.Series(dtype=float))(panel)
    assert nothing.labels == ()


def test_slice_gains_equal_a_direct_selection(results: Results) -> None:
    found = next(
        s for s in compare_slices(results, "history") if s.variant == "kd-llm" and s.backbone == "SASRec"
    )
    panel = results.panels["toy"]
    a, b = (
        panel.user_values(list(results.cells("toy", "SASRec", v).values()), "NDCG@10")
        for v in ("kd-llm", "plain")
    )
    d = (a - b).mean(axis=0)
    for code, cell in enumerate(found.slices):
        chosen = found.slicing.codes == code
        assert cell.result is not None
        assert cell.result.estimate == pytest.approx(d[chosen].mean())
        assert cell.n_users == chosen.sum()
    whole = next(c for c in compare(results) if c.variant == "kd-llm" and c.backbone == "SASRec")
    assert whole.result is not None
    weighted = sum(c.result.estimate * c.n_users for c in found.slices if c.result) / 300
    assert weighted == pytest.approx(whole.result.estimate)


@pytest.fixture(scope="module")
def sloped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The gain grows with the user's index, and so does the history.
    return write_experiment(
        tmp_path_factory.mktemp("sloped"),
        latent_ranks(900, {"kd": 1.0, "flat": 0.0}, slope=2.0),
        variants=("plain", "kd", "flat"),
        metrics=("MRR",),
    )


def test_planted_interaction(sloped: Path) -> None:
    found = {s.variant: s for s in compare_slices(load_results(sloped), "history", metric="NDCG@100")}
    kd, flat = found["kd"], found["flat"]
    assert kd.trend is not None
    assert flat.trend is not None
    assert kd.omnibus is not None
    assert flat.omnibus is not None
    assert kd.trend.p_corrected < 0.01
    assert kd.trend.estimate > 0
    assert kd.omnibus.p < 0.01
    assert flat.trend.p_corrected > 0.05
    frame = slice_frame(list(found.values()))
    assert {"slice", "interaction_p", "trend_p_corrected", "p_corrected", "low", "high"} <= set(frame.columns)


def test_unknown_slice_is_one_line(results: Results) -> None:
    with pytest.raises(SpecError, match="expected one of history"):
        compare_slices(results, "colour")


def test_a_slice_of_one_user_is_left_out_with_a_note(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(60, {"kd": 0.6}))
    for run in (tmp_path / "runs").iterdir():
        frame = pd.read_parquet(run / "ranks.parquet")
        frame["item_count"] = frame["item_count"].clip(1)
        frame.loc[frame["user"] == "u00007", "item_count"] = 0
        frame.to_parquet(run / "ranks.parquet", index=False)
    results = load_results(directory)
    (found,) = compare_slices(results, "popularity")
    (gone,) = set(found.slicing.labels) - set(found.slice_labels)
    assert f"slice '{gone}' left out: fewer than two users" in slice_table(results, found=[found]).notes
    (whole,) = compare_slices(results, "history")
    assert not any("left out: fewer" in note for note in slice_table(results, found=[whole]).notes)
