"""A tiny dataset and experiment below a temporary folder, and cells that cost nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_kd.benchmark import sweep

Write = Callable[[str, dict[str, Any]], Path]
SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 2, "stopping_step": 1, "train_batch_size": 16},
}


def write_dataset(folder: Path, name: str = "tiny", users: int = 30, items: int = 25) -> None:
    """Atomic files with 5 to 12 interactions per user; the same bytes at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, users + 1):
        for second, item in enumerate(draw.sample(range(1, items + 1), draw.randint(5, 12))):
            lines.append(f"u{user}\ti{item}\t{draw.randint(1, 5)}\t{1000 + second}")
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    texts = ["item_id:token\ttitle:token_seq\tgenre:token_seq"]
    texts += [f"i{i}\tTitle {i}\t{'Drama' if i % 2 else 'Comedy'}" for i in range(1, items + 1)]
    (folder / f"{name}.item").write_text("\n".join(texts) + "\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``properties/dataset/tiny.yaml``, its data and ``properties/experiment/small.yaml``."""
    props = tmp_path / "properties"
    for kind in ("dataset", "experiment", "model", "profile"):
        (props / kind).mkdir(parents=True)
    write_dataset(tmp_path / "data" / "tiny")
    dataset = {
        "name": "tiny",
        "domain": "movies",
        "source": "path",
        "path": "tiny",
        "fields": {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"},
        "text": {"title": "title", "fields": ["title", "genre"]},
        "filter": {"min_rating": None, "min_user_inter": 0, "min_item_inter": 0, "iterate": True},
        "split": {"protocol": "leave-one-out", "seed": 1, "quantile": 0.8, "valid_user_share": 0.2},
        "max_item_list_length": 8,
    }
    (props / "dataset" / "tiny.yaml").write_text(yaml.safe_dump(dataset, sort_keys=False))
    experiment = {
        "experiment": "small",
        "datasets": ["tiny"],
        "backbones": ["SASRec"],
        "variants": {"plain": SMALL, "wide": {**SMALL, "hparams": {**SMALL["hparams"], "inner_size": 16}}},
        "seeds": [1, 2],
        "metrics": ["NDCG@10", "MRR"],
    }
    (props / "experiment" / "small.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    monkeypatch.setenv("RECBOLE_KD_PROPERTIES", str(props))
    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sweep, "_write_outputs", tables_only)
    return tmp_path


_write_outputs = sweep._write_outputs


def tables_only(folder: Path, figures: bool) -> None:
    """What a sweep leaves but its figure, which takes longer to draw than the cells here to train."""
    _write_outputs(folder, False)


@pytest.fixture
def write_experiment(place: Path) -> Write:
    """Write ``small.yaml`` laid over with changes, under a new name; return the path."""

    def write(name: str, changes: dict[str, Any]) -> Path:
        base = yaml.safe_load((place / "properties" / "experiment" / "small.yaml").read_text())
        path = place / "properties" / "experiment" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**base, "experiment": name, **changes}, sort_keys=False))
        return path

    return write


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real single-node SLURM; the folder of its configuration and logs."""
    pytest.importorskip("dask_jobqueue")
    if os.geteuid() != 0 or not shutil.which("slurmctld") or not shutil.which("munged"):
        pytest.skip("needs root, slurm-wlm and munge")
    folder = Path("/tmp") / f"slurm-{os.getpid()}"
    subprocess.run(
        [Path(__file__).parent / "slurm_single_node.sh", "start", folder, "2"], check=True, timeout=60
    )
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    try:
        deadline = time.monotonic() + 60
        while (
            "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=20).stdout
        ):
            if time.monotonic() > deadline:
                pytest.skip("SLURM does not come up on this machine")
            time.sleep(0.5)
        yield folder
    finally:
        subprocess.run(
            [Path(__file__).parent / "slurm_single_node.sh", "stop", folder], check=True, timeout=60
        )
        shutil.rmtree(folder, ignore_errors=True)
