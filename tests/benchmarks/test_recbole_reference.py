"""The reference run measures what RecBole's own evaluator measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


@pytest.mark.slow
def test_ranks_agree_with_recboles_evaluator(tmp_path: Path) -> None:
    import torch
    from recbole.utils import get_model, init_seed

    from benchmarks.common import load_split, quality
    from benchmarks.recbole_reference import loader_ranks
    from recbole_kd.compat import PrefixTrainer
    from recbole_kd.data.recbole_view import recbole_loaders

    torch.set_num_threads(1)
    split, max_len = load_split("ml-100k")
    data = recbole_loaders(split, "GRU4Rec", {}, max_item_list_length=max_len, checkpoint_dir=tmp_path)
    init_seed(3, True)
    model = get_model("GRU4Rec")(data.config, data.train.dataset)
    theirs = PrefixTrainer(data.config, model).evaluate(data.test, load_best_model=False)
    ours = quality(loader_ranks(model, data.test, split.test))
    assert ours["NDCG@10"] == pytest.approx(theirs["ndcg@10"], abs=1e-5)
    assert ours["Recall@10"] == pytest.approx(theirs["recall@10"], abs=1e-5)


@pytest.mark.slow
def test_budgeted_run_writes_curve_ranks_and_summary(tmp_path: Path, repo_root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.recbole_reference",
        "--model",
        "GRU4Rec",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "--every", "3", "--max-cpu", "1"],
        cwd=repo_root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["ended"] == "1 CPU-seconds of training are spent"
    ranks = pd.read_parquet(tmp_path / "ranks.parquet")
    assert ranks.groupby("split").size().to_dict() == {"test": 943, "valid": 943}
    assert ranks["rank"].between(1, 1682).all()
