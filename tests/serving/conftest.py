"""Run directories of small students, plain and distilled, written as a sweep writes them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recbole_kd.benchmark import rooms, rundir
from recbole_kd.benchmark.artefacts import read_split, split_file
from recbole_kd.benchmark.run_record import ranks_table, write_model, write_table
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.data.types import Split
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.ranking import rank_targets
from tests.students import distill_spec, student_spec

_SPEC = importlib.util.spec_from_file_location(
    "bench_conftest", Path(__file__).parents[1] / "benchmark" / "conftest.py"
)
_conftest = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_conftest)
place, write_experiment = _conftest.place, _conftest.write_experiment

MakeRun = Callable[..., Path]


def _trained(spec: CellSpec, split: Split) -> Any:
    """A student after one distillation step, so that parameters are not those of the constructor."""
    student, max_len = spec.student, spec.dataset.max_item_list_length
    model = build_student(
        student.model, student.hparams, n_items=split.dataset.n_items, max_len=max_len, seed=spec.seed
    )
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    if student.distill is not None:
        n_users = split.dataset.n_users
        model.attach_teacher(
            student.distill, torch.randn(n_users, 6), torch.ones(n_users, dtype=torch.bool), 1
        )
    batches = SequenceBatches(split.train, max_len, 8, shift=model.shift, packed=model.packed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = next(iter(batches.epoch(np.random.default_rng(0))))
    losses = model.sequence_losses(batch, None, np.random.default_rng(0), distil=student.distill is not None)
    sum(loss for loss in losses if loss is not None).backward()
    optimizer.step()
    return model.eval()


@pytest.fixture
def make_run(place: Path) -> MakeRun:
    """Write ``results/runs/<cell>`` of a backbone; ``distilled`` with a head while it was trained."""

    def make(backbone: str, *, distilled: bool = True, seed: int = 1) -> Path:
        dataset, source = rooms.dataset("tiny")
        spec = CellSpec(
            dataset=dataset,
            dataset_source=source,
            student=student_spec(backbone, distill_spec() if distilled else None),
            teacher={"trust_unverified": False} if distilled else None,
            teacher_source={"file": "0" * 64} if distilled else None,
            teacher_file="profiles.parquet" if distilled else None,
            seed=seed,
        )
        results = place / "results"
        split = read_split(split_file(results, spec))
        model = _trained(spec, split)
        parts = {"valid": split.valid, "test": split.test}
        ranks = {
            name: rank_targets(model, part, max_len=dataset.max_item_list_length, batch_size=16)
            for name, part in parts.items()
        }
        written = {"dataset": "tiny", "backbone": backbone, "variant": "kd" if distilled else "plain"}
        manifest = {
            "label": {"backbone": backbone, "seed": seed},
            "written_as": {**written, "seed": seed},
            "metrics": {"test": {"MRR": float((1 / ranks["test"].rank).mean())}},
            "dataset_digest": split.dataset.digest,
            "split_digest": split.digest,
            "n_parameters": sum(v.numel() for v in model.student_state().values()),
        }
        writers = {
            "ranks.parquet": lambda path: write_table(ranks_table(split, parts, ranks), path),
            "history.parquet": lambda path: write_table(pa.table({"epoch": [1]}), path),
            "model.safetensors": lambda path: write_model(model.student_state(), path),
        }
        return rundir.write_run(results, spec.address(), spec.canonical(), manifest, writers)

    return make


def write_record(results: Path, runs: list[Path]) -> Path:
    """``results/trial/experiment.json`` over run directories; the baseline is ``plain``."""
    cells = []
    for run in runs:
        manifest = json.loads((run / "manifest.json").read_text())
        cells.append({**manifest["written_as"], "cell": run.name, "run": f"../runs/{run.name}"})
    plan = {"format": 1, "experiment": "trial", "baseline": "plain", "metrics": ["MRR"]}
    folder = results / "trial"
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps({**plan, "cells": cells, "failures": []}))
    return folder
