"""Time and peak memory of the analysis of many runs with many users.

    python benchmarks/bench_analysis.py --runs 500 --users 25000

Writes synthetic run directories into a temporary folder (not timed), then, in one process of its
own, loads them and makes the main table, all comparisons, the slice table and the forest plot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEEDS = 5


def write_runs(root: Path, n_runs: int, n_users: int, n_items: int = 12_000) -> Path:
    """Experiment with ``n_runs`` runs: one backbone, ``n_runs / SEEDS`` variants."""
    rng = np.random.default_rng(0)
    users = pa.array([f"user{i:07d}" for i in range(n_users)]).dictionary_encode()
    columns = {
        "user": pa.concat_arrays([users, users]),
        "item": pa.array([f"item{i}" for i in rng.integers(n_items, size=2 * n_users)]).dictionary_encode(),
        "split": pa.array(["valid"] * n_users + ["test"] * n_users).dictionary_encode(),
        "train_len": pa.array(np.tile(rng.geometric(0.1, n_users), 2).astype(np.int32)),
        "history_len": pa.array(np.tile(rng.geometric(0.1, n_users), 2).astype(np.int32)),
        "item_count": pa.array(rng.zipf(1.5, 2 * n_users).clip(0, 5000).astype(np.int32)),
    }
    ability = rng.normal(size=2 * n_users)
    cells = []
    for run in range(n_runs):
        variant, seed = divmod(run, SEEDS)
        name = "plain" if variant == 0 else f"kd-{variant:03d}"
        label = {"dataset": "synthetic", "backbone": "SASRec", "variant": name, "seed": seed}
        cell = f"{run:016x}"
        folder = root / "runs" / cell
        folder.mkdir(parents=True)
        score = ability + rng.normal(size=2 * n_users) + 0.01 * (variant % 7)
        rank = np.clip(1 + n_items / (1 + np.exp(1.5 * (score + 2))), 1, n_items).astype(np.float32)
        table = pa.table(columns | {"rank": np.floor(rank), "rank_masked": np.maximum(1, np.floor(rank) - 5)})
        pq.write_table(table, folder / "ranks.parquet")
        manifest = {"format": 1, "cell": cell, "label": label, "status": "done", "split_digest": "s"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        cells.append(label | {"cell": cell, "run": f"../runs/{cell}"})
    directory = root / "bench"
    directory.mkdir()
    plan = {"format": 1, "experiment": "bench", "baseline": "plain", "metrics": ["NDCG@10", "Recall@10"]}
    (directory / "experiment.json").write_text(json.dumps(plan | {"cells": cells, "failures": []}))
    return directory


def analyse(directory: Path) -> None:
    """Every step with its seconds, then total and peak memory, as JSON on the last line."""
    start = time.perf_counter()
    marks = [("", start)]
    from analysis.load import load_results

    results = load_results(directory)
    marks.append(("load", time.perf_counter()))
    from analysis.comparison import compare
    from analysis.tables import main_table, slice_table

    primary = compare(results)
    marks.append(("compare, primary metric", time.perf_counter()))
    table = main_table(results, comparisons=primary)
    table.to_latex(), table.to_csv(), table.to_markdown()
    marks.append(("main table", time.perf_counter()))
    compare(results, metrics=results.metrics)
    marks.append(("compare, all metrics", time.perf_counter()))
    slice_table(results, "history")
    marks.append(("slices by history", time.perf_counter()))
    from analysis.figures import forest_plot, save_figure

    save_figure(forest_plot(results, primary), directory / "gains")
    marks.append(("forest plot", time.perf_counter()))
    for (_, before), (name, after) in itertools.pairwise(marks):
        print(f"{name:<26}{after - before:8.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(time.process_time(), 1),
                "peak_gib": round(peak, 2),
            }
        )
    )


def main() -> None:
    """Write the runs and analyse them in a fresh process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--users", type=int, default=25_000)
    parser.add_argument("--analyse", type=Path, help="analyse this experiment instead of writing one")
    arguments = parser.parse_args()
    if arguments.analyse:
        analyse(arguments.analyse)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        directory = write_runs(Path(folder), arguments.runs, arguments.users)
        print(f"wrote {arguments.runs} runs x {arguments.users} users in {time.perf_counter() - start:.0f} s")
        command = [sys.executable, __file__, "--analyse", str(directory)]
        environment_root = Path(__file__).resolve().parents[1]
        subprocess.run(command, check=True, cwd=environment_root)


if __name__ == "__main__":
    main()
