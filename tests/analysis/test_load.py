"""Loading: alignment against a direct reading of the files, and everything that can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import latent_ranks, target_frame, write_experiment, write_run

from analysis.load import Results, load_results
from analysis.wording import protocol
from recbole_kd.errors import StoreError
from recbole_kd.metrics import per_user


def test_panel_equals_the_files(trial: Path, results: Results) -> None:
    panel = results.panels["toy"]
    assert panel.rank.dtype == np.float32
    assert len(panel.cells) == 24
    for row in results.runs.itertuples():
        file = pd.read_parquet(Path(row.path) / "ranks.parquet")
        file = file[file["split"] == "test"].set_index("user")
        ours = pd.Series(panel.rank[panel.cells.index(row.cell)], index=panel.targets["user"].astype(str))
        pd.testing.assert_series_equal(ours.sort_index(), file["rank"].sort_index(), check_names=False)


def test_shuffled_rows_are_aligned(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(50))
    before = load_results(directory).panels["toy"]
    path = tmp_path / "runs" / "toy-sasrec-kd-1" / "ranks.parquet"
    frame = pd.read_parquet(path).sample(frac=1, random_state=3)
    frame.to_parquet(path, index=False)
    after = load_results(directory).panels["toy"]
    np.testing.assert_array_equal(before.rank, after.rank)


def test_masked_and_valid(trial: Path) -> None:
    plain, masked = load_results(trial), load_results(trial, masked=True)
    assert (masked.panels["toy"].rank <= plain.panels["toy"].rank).all()
    assert (masked.panels["toy"].rank < plain.panels["toy"].rank).any()
    assert load_results(trial, split="valid").split == "valid"


def test_several_targets_of_a_user_are_averaged(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(4), seeds=(0,))
    for variant in ("plain", "kd"):
        path = tmp_path / "runs" / f"toy-sasrec-{variant}-0" / "ranks.parquet"
        extra = target_frame(4, "test").iloc[[0]].assign(item="other", rank=1.0, rank_masked=1.0)
        pd.concat([pd.read_parquet(path), extra]).to_parquet(path, index=False)
    panel = load_results(directory).panels["toy"]
    assert (panel.n_users, panel.rank.shape) == (4, (2, 5))
    values = panel.user_values(panel.cells, "MRR")
    own = panel.targets["user"] == "u00000"
    expected = per_user(panel.rank[0][own.to_numpy()], "MRR").mean()
    assert values[0, 0] == pytest.approx(expected)


def test_missing_and_failed_cells_are_named(partial: Path) -> None:
    results = load_results(partial)
    assert results.runs["status"].value_counts().to_dict() == {"done": 5, "failed": 3, "missing": 1}
    text = "\n".join(results.problems)
    assert "missing: toy SASRec kd-llm seed 2" in text
    assert "failed: toy SASRec kd-shuffled seed 0, 1, 2: MemoryError" in text


def test_different_users_are_named_and_kept_apart(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(40), skip=[("toy", "SASRec", "kd", 1)])
    label = {"dataset": "toy", "backbone": "SASRec", "variant": "kd", "seed": 1}
    rank = latent_ranks(40)("toy", "SASRec", "kd", 1)
    write_run(tmp_path / "runs" / "toy-sasrec-kd-1", label, rank, users=range(25))
    results = load_results(directory)
    assert "different users: toy SASRec kd seed 1 has 25 of 40" in results.problems
    panel = results.panels["toy"]
    assert np.isnan(panel.rank).sum() == 15
    assert np.isnan(panel.user_values(panel.cells, "NDCG@10")).sum() == 15


def test_other_split_is_excluded(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(20), skip=[("toy", "SASRec", "kd", 2)])
    label = {"dataset": "toy", "backbone": "SASRec", "variant": "kd", "seed": 2}
    write_run(tmp_path / "runs" / "toy-sasrec-kd-2", label, np.full(20, 3.0), split_digest="other")
    results = load_results(directory)
    assert list(results.runs["status"]).count("excluded") == 1
    assert any(p.startswith("excluded: toy SASRec kd seed 2: split other differs") for p in results.problems)


def truncate(path: Path) -> None:
    data = (path / "ranks.parquet").read_bytes()
    (path / "ranks.parquet").write_bytes(data[: len(data) // 2])


def bad_json(path: Path) -> None:
    (path / "manifest.json").write_text('{"format": 1,', encoding="utf-8")


def other_label(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["label"]["seed"] = 7
    (path / "manifest.json").write_text(json.dumps(manifest))


def edit_ranks(**columns: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        frame = pd.read_parquet(path / "ranks.parquet")
        for name, value in columns.items():
            if value is None:
                frame = frame.drop(columns=name)
            else:
                frame[name] = value
        frame.to_parquet(path / "ranks.parquet", index=False)

    return edit


def repeat_row(path: Path) -> None:
    frame = pd.read_parquet(path / "ranks.parquet")
    pd.concat([frame, frame[frame["split"] == "test"].head(1)]).to_parquet(
        path / "ranks.parquet", index=False
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "not a readable parquet file"),
        (bad_json, "not readable JSON"),
        (other_label, "label differs from the plan in seed"),
        (edit_ranks(rank=np.float32(0.5)), "expected at least 1"),
        (edit_ranks(rank=np.float32("nan")), "expected at least 1"),
        (edit_ranks(item_count=None), "lacks column item_count"),
        (edit_ranks(split="train"), "has no row with split 'test'"),
        (edit_ranks(user=None), "lacks column user"),
        (repeat_row, "repeats a (user, item)"),
    ],
)
def test_broken_run_is_named_and_the_others_stay(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    directory = write_experiment(tmp_path, latent_ranks(20))
    damage(tmp_path / "runs" / "toy-sasrec-kd-1")
    results = load_results(directory)
    assert results.runs["status"].value_counts().to_dict() == {"done": 5, "unreadable": 1}
    problem = next(p for p in results.problems if p.startswith("unreadable"))
    assert reason in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "experiment.json: not found"),
        ("[1]", "expected an object"),
        ("{", "not readable JSON"),
        ('{"format": 2}', "field 'format' is 2"),
        ('{"format": 1, "experiment": "x", "metrics": [], "cells": []}', "field 'baseline'"),
        (
            '{"format": 1, "experiment": "x", "baseline": "p", "metrics": [], "cells": []}',
            "'metrics' is empty",
        ),
        (
            '{"format": 1, "experiment": "x", "baseline": "p", "metrics": ["MRR"], "cells": [{"seed": 1}]}',
            "cells[0] lacks dataset",
        ),
        (
            '{"format": 1, "experiment": "x", "baseline": "p", "metrics": ["MRR"], "cells": []}',
            "'cells' is empty",
        ),
    ],
)
def test_malformed_experiment_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(StoreError) as error:
        load_results(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_outside_of_the_results_folder_are_not_read(tmp_path: Path) -> None:
    inside = tmp_path / "results"
    inside.mkdir()
    directory = write_experiment(inside, latent_ranks(10))
    (inside / "runs" / "toy-sasrec-kd-0").rename(tmp_path / "elsewhere")
    plan = json.loads((directory / "experiment.json").read_text())
    plan["cells"][3]["run"] = str(tmp_path / "elsewhere")
    (directory / "experiment.json").write_text(json.dumps(plan))
    assert list(load_results(directory).runs["status"]).count("missing") == 1


def test_frames(results: Results) -> None:
    frame = results.ranks_frame()
    assert len(frame) == 24 * 300
    assert frame["rank"].dtype == np.float32
    assert isinstance(frame["user"].dtype, pd.CategoricalDtype)
    history = results.history(results.runs["cell"][0])
    assert {"epoch", "phase", "loss"} <= set(history.columns)


def test_analysis_needs_neither_torch_nor_recbole(trial: Path) -> None:
    code = (
        "import sys; from analysis.write import write_outputs; write_outputs(sys.argv[1]);"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'recbole', 'profiles')];"
        "own = [m for m in sys.modules if m.startswith('recbole_kd.')];"
        "assert not bad, bad;"
        "assert set(own) <= {'recbole_kd.errors', 'recbole_kd.metrics', 'recbole_kd.strict'}, own"
    )
    subprocess.run([sys.executable, "-c", code, str(trial)], check=True, cwd=Path(__file__).parents[2])


def test_runs_that_state_reservations_are_named(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10))
    for seed in (0, 2):
        path = tmp_path / "runs" / f"toy-sasrec-kd-{seed}" / "manifest.json"
        manifest = json.loads(path.read_text())
        more = {"stopped_early": False, "profile_verified": False, "flags": ["collapsed"]}
        path.write_text(json.dumps(manifest | more))
    problems = load_results(directory).problems
    assert "epoch limit reached before early stopping: toy SASRec kd seed 0, 2" in problems
    assert "profiles of unverified provenance: toy SASRec kd seed 0, 2" in problems
    assert "collapsed: toy SASRec kd seed 0, 2" in problems


def test_protocol_names_all_that_differ(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10), seeds=(0,))
    path = tmp_path / "runs" / "toy-sasrec-kd-0" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["protocol"] |= {"loss": "BPR", "candidates": "100 sampled items"}
    path.write_text(json.dumps(manifest))
    results = load_results(directory)
    assert "different protocols: the runs on toy name 2" in results.problems
    assert "loss: CE, BPR" in protocol(results)
    assert "all items, 100 sampled items" in protocol(results)


def mark_code(path: Path, source: str | None) -> None:
    """Say by which version of the code a run was trained."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["code"] = {"version": "0.1.0"} if source is None else {"version": "0.1.0", "source": source}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_runs_of_different_code_are_named_per_dataset(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(20), datasets=("toy", "other"))
    assert not any("different code" in p for p in load_results(directory).problems)
    for number, path in enumerate(sorted((tmp_path / "runs").glob("toy-*"))):
        # One run does not say: it counts for neither side.
        mark_code(path, None if number == 0 else f"{min(number, 3):016x}")
    for path in (tmp_path / "runs").glob("other-*"):
        mark_code(path, "a" * 16)
    (said,) = [p for p in load_results(directory).problems if "different code" in p]
    assert said == (
        "different code: the runs on toy come from 3 versions of it, which may round otherwise "
        "(manifest.json, code)"
    )
