"""How long a student's list takes: ``latency.json`` of an experiment, as ``serve-latency --json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.cli_serve import has_onnx, students_of
from recbole_kd.benchmark.extras.plan import results_of

FILE = "latency.json"
ROUNDS = 100


def write_latency(folder: Path, batches: Sequence[int], rounds: int = ROUNDS) -> Path:
    """Time the baseline and the first other variant of every dataset and backbone, once for the same runs.

    Parameters
    ----------
    folder : Path
        Of the experiment.
    batches : sequence of int
        Users per call.
    """
    from recbole_kd.serving.latency import EAGER, make_systems, measure

    path = folder / FILE
    students = students_of([str(folder)], None, results_of(folder))
    cells = [trained.run.name for trained, _, _ in students]
    asked = {"cells": cells, "batches": list(batches), "rounds": rounds}
    if path.is_file() and asked.items() <= json.loads(path.read_text(encoding="utf-8")).items():
        return path
    systems = make_systems(students, [EAGER, "onnx"] if has_onnx() else [EAGER])
    rows = [row.to_dict() for batch in batches for row in measure(systems, batch, rounds)]
    text = {"unit": "ms per call", "device": "cpu", "threads": 1, **asked, "rows": rows}
    rundir.write_text_atomic(path, json.dumps(text, indent=1) + "\n")
    return path
