"""Runs that round otherwise are named, and only these."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

from analysis.load import load_results
from analysis.made_alike import rounding_problems
from analysis.studies.run import load_study_run
from analysis.tables.main import main_table
from tests.analysis.synthetic import latent_ranks, write_experiment
from tests.analysis.test_studies import write_study

CPU = {
    "device": "cpu",
    "execution": {
        "resident_steps": 0,
        "autocast": "float32",
        "tf32": False,
        "compile": False,
        "eval_memory_mb": 512,
        "checkpoint_seconds": 60.0,
        "softmax_precision": "bfloat16",
        "stacked": False,
        "resumed_at": [],
        "earlier_parts": [],
    },
    "machine": {"system": "Linux", "machine": "x86_64", "processor": "Xeon 1", "cores": 2},
    "versions": {"python": "3.11.1", "torch": "2.9.0", "pandas": "2.3.0"},
}
GPU = {**CPU, "device": "cuda:0 (NVIDIA L4)", "execution": {**CPU["execution"], "autocast": "bfloat16"}}
TOLD = "different rounding: the runs on toy differ in {}, which may move results by more than a method does"


def changed(manifest, where, value):
    """Copy with another value at a dotted place; None: without it."""
    copy = deepcopy(manifest)
    *path, last = where.split(".")
    part = copy
    for name in path:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return copy


def problems(*manifests):
    return rounding_problems([("toy", m) for m in manifests])


@pytest.mark.parametrize(
    ("base", "where", "value", "said"),
    [
        (CPU, "device", "cuda:0 (NVIDIA L4)", "device (cpu, cuda (NVIDIA L4))"),
        (GPU, "device", "cuda:0 (NVIDIA H100)", "device (cuda (NVIDIA H100), cuda (NVIDIA L4))"),
        (CPU, "machine.processor", "EPYC 2", "processor (EPYC 2, Xeon 1)"),
        (CPU, "versions.torch", "2.9.1", "torch (2.9.0, 2.9.1)"),
        (GPU, "execution.autocast", "float32", "autocast (bfloat16, float32)"),
        (GPU, "execution.tf32", True, "tf32 (False, True)"),
        (CPU, "execution.softmax_precision", "float32", "softmax precision (bfloat16, float32)"),
        (
            CPU,
            "execution.earlier_parts",
            [{"epoch": 3, "code": "a", "processor": "EPYC 2"}],
            "processor (EPYC 2, Xeon 1)",
        ),
    ],
)
def test_what_rounds_otherwise_is_named(base, where, value, said):
    assert problems(base, base) == []
    (told,) = problems(base, changed(base, where, value), base)
    assert told == f"{TOLD.format(said)} (manifest.json)"


@pytest.mark.parametrize(
    ("base", "where", "value"),
    [
        (CPU, "machine.cores", 64),
        (CPU, "versions.python", "3.13.0"),
        (CPU, "versions.pandas", "2.2.0"),
        (CPU, "execution.eval_memory_mb", 4096),
        (CPU, "execution.checkpoint_seconds", 0.0),
        (CPU, "execution.resident_steps", 64),
        (CPU, "execution.earlier_parts", [{"epoch": 3, "code": "a", "processor": "Xeon 1"}]),
        (GPU, "device", "cuda:3 (NVIDIA L4)"),
        (GPU, "machine.processor", "EPYC 2"),
    ],
)
def test_what_moves_no_number_is_not_named(base, where, value):
    assert problems(base, changed(base, where, value)) == []


@pytest.mark.parametrize(
    "where",
    [
        "device",
        "machine",
        "machine.processor",
        "versions",
        "execution",
        "execution.autocast",
        "execution.tf32",
        "execution.softmax_precision",
        "execution.earlier_parts",
    ],
)
def test_a_manifest_that_does_not_say_counts_for_neither_side(where):
    assert problems(CPU, changed(CPU, where, None)) == []
    assert problems(CPU, {}) == []
    assert problems(CPU, {"machine": None, "execution": None, "versions": None, "device": None}) == []


def test_datasets_are_not_compared_with_each_other_and_all_that_differs_is_in_one_line():
    other = changed(changed(CPU, "machine.processor", "EPYC 2"), "versions.torch", "2.9.1")
    assert rounding_problems([("toy", CPU), ("other", other)]) == []
    found = rounding_problems([("toy", CPU), ("other", CPU), ("toy", other)])
    said = "processor (EPYC 2, Xeon 1), torch (2.9.0, 2.9.1)"
    assert found == [f"{TOLD.format(said)} (manifest.json)"]


def made_by(path: Path, made: dict) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | made))


def test_tables_show_it(tmp_path):
    directory = write_experiment(tmp_path, latent_ranks(20))
    for path in (tmp_path / "runs").glob("toy-*-kd-*"):
        made_by(path, CPU)
    # Of the other runs only a few things are known, as of old ones; torch is one.
    (told,) = load_results(directory).problems
    assert told.startswith(TOLD.format("torch (2.13.0, 2.9.0)"))
    for path in (tmp_path / "runs").glob("toy-*"):
        made_by(path, GPU if "-kd-" in path.name else CPU)
    results = load_results(directory)
    assert sum("different rounding" in problem for problem in results.problems) == 1
    assert any("autocast (bfloat16, float32)" in note for note in main_table(results).notes)


def test_a_study_tells_it_once_for_all_parts(tmp_path):
    """Also where each part is of one processor and only together they are of several."""
    home = write_study(tmp_path, {}, [], [(x, {"kd": 0.3}) for x in (1, 2, 3)])
    for number in range(3):
        for place, path in enumerate(sorted((tmp_path / f"part{number}" / "runs").iterdir())):
            made_by(path, changed(CPU, "machine.processor", f"Xeon {place % 2 if number < 2 else 1}"))
    (told,) = [text for text in load_study_run(home).problems if "different rounding" in text]
    assert told.startswith("different rounding: the runs on tiny differ in processor (Xeon 0, Xeon 1), ")
    for number in range(3):
        for path in (tmp_path / f"part{number}" / "runs").iterdir():
            made_by(path, changed(CPU, "machine.processor", f"Xeon {number}"))
    (told,) = [text for text in load_study_run(home).problems if "different rounding" in text]
    assert "processor (Xeon 0, Xeon 1, Xeon 2)" in told
