"""``run --stack-seeds``: cells trained at once leave the runs that they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import Artefacts, build
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.executor import CellTask
from recbole_kd.benchmark.placement import Where, make_engine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.stacking import StackedEngine, grouped
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def sweep(results, engine):
    options = {"device": "cpu", "build": build, "figures": False}
    return run_sweep(load_experiment("small"), results, engine, JsonReporter(), **options)


def test_a_sweep_in_stacks_equals_one_cell_by_cell(place, tmp_path, monkeypatch):
    stacks = []
    from recbole_kd.training import stacked

    real = stacked.fit_stacked
    monkeypatch.setattr(
        stacked, "fit_stacked", lambda s, specs, *a, **k: stacks.append(len(specs)) or real(s, specs, *a, **k)
    )
    done = sweep(tmp_path / "stacked", StackedEngine())
    assert (done.ran, stacks) == (4, [2, 2]), "two variants of other widths, two seeds each"
    alone = sweep(tmp_path / "alone", SerialEngine())
    assert alone.ran == 4
    for cell in load_experiment("small").cells:
        one, other = (rundir.run_path(tmp_path / k, cell.cell) for k in ("stacked", "alone"))
        said = [json.loads((p / "manifest.json").read_text()) for p in (one, other)]
        assert said[0]["best_epoch"] == said[1]["best_epoch"]
        ranks = [pq.read_table(p / "ranks.parquet").to_pandas() for p in (one, other)]
        assert ranks[0][["user", "item", "split"]].equals(ranks[1][["user", "item", "split"]])
        assert (ranks[0]["rank"] - ranks[1]["rank"]).abs().mean() < 0.5
    again = sweep(tmp_path / "stacked", StackedEngine())
    assert (again.ran, again.reused, len(stacks)) == (0, 4, 2)


def test_histories_cut_at_other_lengths_are_no_stack(place):
    cells = [c for c in load_experiment("small").cells if c.label.variant == "plain"]
    files = Artefacts(Path("split"), None, None)
    tasks = []
    for cell, length in zip((*cells, *cells), (20, 20, 10, 10), strict=True):
        dataset = cell.spec.dataset.model_copy(update={"max_item_list_length": length})
        spec = cell.spec.model_copy(update={"dataset": dataset})
        tasks.append(CellTask.build(Path("r"), f"{cell.cell}-{length}", cell.label, spec, files, "cpu", ()))
    assert [[p.spec.dataset.max_item_list_length for p in group] for group in grouped(tasks)] == [
        [20, 20],
        [10, 10],
    ]


def manifests(results):
    return [
        json.loads((rundir.run_path(results, cell.cell) / "manifest.json").read_text())
        for cell in load_experiment("small").cells
    ]


def use(place, **changes):
    """Settings of the CPU with changes."""
    values = yaml.safe_load((ROOT / "properties/device/cpu.yaml").read_text())
    (place / "properties/device").mkdir(exist_ok=True)
    (place / "properties/device/cpu.yaml").write_text(yaml.safe_dump(values | changes))


def test_a_stack_is_trained_as_its_device_says_and_says_how(place, tmp_path, monkeypatch):
    asked = []
    from recbole_kd.training import stacked

    real = stacked.fit_stacked
    monkeypatch.setattr(stacked, "fit_stacked", lambda *a, **k: asked.append(k["execution"]) or real(*a, **k))
    use(place, autocast="bfloat16", resident_steps=3, compile=True)
    assert sweep(tmp_path / "stacked", StackedEngine()).ran == 4
    assert [e.autocast for e in asked] == ["bfloat16"] * 2
    for manifest in manifests(tmp_path / "stacked"):
        said = manifest["execution"]
        assert (said["stacked"], said["autocast"]) == (True, "bfloat16")
        assert (said["resident_steps"], said["compile"], said["checkpoint_seconds"]) == (0, False, 0)
    use(place, autocast="bfloat16", resident_steps=3)
    sweep(tmp_path / "alone", SerialEngine())
    for manifest in manifests(tmp_path / "alone"):
        said = manifest["execution"]
        assert (said["stacked"], said["resident_steps"], said["checkpoint_seconds"]) == (False, 3, 60)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), FloatingPointError("nan")])
def test_cells_of_a_stack_that_fails_train_alone(place, tmp_path, monkeypatch, capsys, error):
    from recbole_kd.training import stacked

    def failing(*args, **kwargs):
        raise error

    monkeypatch.setattr(stacked, "fit_stacked", failing)
    done = sweep(tmp_path / "r", StackedEngine())
    assert (done.ran, done.failures) == (4, {})
    assert [m["execution"]["stacked"] for m in manifests(tmp_path / "r")] == [False] * 4
    told = [line for line in capsys.readouterr().err.splitlines() if "stack" in line]
    said = f"{type(error).__name__}: {error}"
    assert told == [f"a stack of 2 cells failed ({said}); they train alone"] * 2


def test_other_engines_and_stacking_exclude_each_other():
    assert isinstance(make_engine(Where(device="cpu", stack=True))[0], StackedEngine)
    with pytest.raises(UserError, match="stack-seeds"):
        make_engine(Where(workers=2, device="cpu", stack=True))


def test_nothing_to_do_is_no_group():
    assert list(grouped([])) == []
