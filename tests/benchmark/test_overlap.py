"""What needs a split only trains while another process makes the files of the other cells."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import time
import tokenize
from pathlib import Path

import pytest

from recbole_kd.benchmark import artefacts, rundir
from recbole_kd.benchmark.child import Child
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.executor import CellTask
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import DataError

_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


class Making:
    """Stands in for the process that builds: its second result is ready once ``until()`` holds."""

    def __init__(self, until, first, result):
        self._until, self._first, self._result = until, [first], result
        self.ended = False

    def done(self):
        return self._until()

    def result(self):
        if self._first:
            return self._first.pop()
        while not self.done():
            time.sleep(0.01)
        return self._result()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.ended = True


class Tasks:
    """Tasks that are ready once ``until()`` holds."""

    def __init__(self, until, tasks):
        self.count, self.taken = len(tasks), False
        self._until, self._tasks = until, tasks

    def ready(self):
        return self._until()

    def take(self):
        self.taken = True
        return self._tasks


@pytest.fixture
def taught(write_experiment):
    """Two cells that need a split only, two that need a teacher."""
    small = {"hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8}, "train": {"epochs": 2}}
    words = {"kind": "tfidf", "model": None, "pooling": None, "max_tokens": None, "dimension": 4}
    kd = {**small, "teacher": "template", "profile": {"encoder": words}}
    variants = {"plain": small, "kd": kd}
    return load_experiment(write_experiment("taught", {"variants": variants}))


def lines(file):
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def beside(until, fail=None):
    """A ``build_beside`` whose files are there once ``until()`` holds."""
    started = []

    def build(results, first, rest):
        def made():
            if fail:
                raise fail
            return fake.no_artefacts(results, rest)

        making = Making(until, fake.no_artefacts(results, first), made)
        started.append(([cell.label.variant for cell in rest], making))
        return started[-1][1]

    return build, started


def run(experiment, results, engine, **more):
    more = {"device": "cpu", "build": fake.no_artefacts, "figures": False, **more}
    return run_sweep(experiment, results, engine, JsonReporter(), **more)


def test_plain_cells_train_while_files_are_made(taught, tmp_path, capsys):
    log, results = tmp_path / "log", tmp_path / "r"
    build, started = beside(lambda: len(lines(log)) >= 1)
    done = run(taught, results, DaskEngine(1, function=fake.fake_cell(0, log)), build_beside=build)
    assert (done.ran, done.failures) == (4, {})
    assert [variants for variants, _ in started] == [["kd", "kd"]]
    assert started[0][1].ended
    variant = {cell.cell: cell.label.variant for cell in taught.cells}
    assert variant[lines(log)[0]] == "plain"
    total = [e for e in map(json.loads, capsys.readouterr().out.splitlines()) if e["event"] == "plan"]
    assert (total[0]["cells"], total[0]["to_run"]) == (4, 4)
    serial = tmp_path / "serial"
    run(taught, serial, SerialEngine(fake.fake_cell(0, None)))
    for file in ("table.csv", "experiment.json"):
        assert (results / "taught" / file).read_bytes() == (serial / "taught" / file).read_bytes()


def test_files_that_take_longer_than_the_plain_cells_are_waited_for(taught, tmp_path):
    log = tmp_path / "log"
    build, _ = beside(lambda: len(lines(log)) >= 2)
    done = run(taught, tmp_path / "r", DaskEngine(2, function=fake.fake_cell(0, log)), build_beside=build)
    assert done.ran == 4


def test_files_that_cannot_be_made_end_the_sweep_at_once_and_leave_nothing(taught, tmp_path):
    build, started = beside(lambda: True, fail=DataError("a bad profile"))
    began = time.monotonic()
    with pytest.raises(DataError, match="a bad profile"):
        run(taught, tmp_path / "r", DaskEngine(1, function=fake.fake_cell(60, None)), build_beside=build)
    assert time.monotonic() - began < 50
    assert started[0][1].ended
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "why", ["in this process", "nothing is plain", "nothing to build", "taught runs exist"]
)
def test_everything_is_built_first_where_overlap_gains_nothing_or_may_mislead(
    taught, write_experiment, tmp_path, why
):
    results, engine = tmp_path / "r", SerialEngine(fake.fake_cell(0, None))
    chosen = [cell for cell in taught.cells if cell.label.variant == "kd"]
    cells = {"nothing is plain": chosen, "nothing to build": [c for c in taught.cells if c not in chosen]}
    if why == "taught runs exist":
        run(taught, results, engine, cells=chosen[:1])
    if why != "in this process":
        engine.overlaps = True
    build, started = beside(lambda: True)
    run(taught, results, engine, cells=cells.get(why), build_beside=build)
    assert started == []


def test_a_late_task_starts_in_its_turn(tmp_path):
    log, started = tmp_path / "log", tmp_path / "started"
    (tmp_path / "r").mkdir()

    def task(cell, turn):
        label = {"dataset": "d", "backbone": "SASRec", "variant": "plain", "seed": 1}
        return CellTask(str(tmp_path / "r"), cell, label, {}, "", None, "cpu", (), turn=turn)

    queued = [task(f"cell{turn}", turn) for turn in (0, 5, 6, 7, 8)]
    late = Tasks(lambda: bool(lines(log)), [task("late", 1)])
    engine = DaskEngine(1, function=fake.telling_cell(0.3, log, started))
    outcomes = [outcome.cell for outcome in engine.run(queued, late)]
    assert sorted(outcomes) == sorted([t.cell for t in queued] + ["late"])
    order = lines(started)
    assert order.index("late") <= 2  # the cell that was at work when it came goes first
    assert [cell for cell in order if cell != "late"] == [t.cell for t in queued]


def test_what_the_process_prints_goes_through_the_driver(monkeypatch, tmp_path):
    said = []

    class Screen:
        def write(self, text):
            said.append(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Screen())
    with Child("prints", print, "three\nlines\nlong", relayed=True) as child:
        assert child.result() is None
    deadline = time.monotonic() + 10
    while "".join(said).count("\n") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "".join(said) == "three\nlines\nlong\n"


@pytest.mark.parametrize(("function", "argument"), [(time.sleep, 600), (bytes, 10_000_000)])
def test_leaving_the_block_ends_the_process(function, argument):
    with Child("works", function, argument, relayed=True) as child:
        if function is bytes:  # more than a pipe holds, and nobody reads it
            while not child.done():
                time.sleep(0.01)
        process = child._process
    assert process.exitcode is not None


def test_a_generator_gives_one_result_after_the_other(tmp_path):
    (tmp_path / "below").mkdir()
    with Child("walks", os.walk, str(tmp_path), results=2) as child:
        assert [Path(child.result()[0]).name for _ in range(2)] == [tmp_path.name, "below"]
    assert child._process.exitcode == 0
    with Child("reads", tokenize.tokenize, io.BytesIO(b"(").readline, results=9) as child:
        assert child.result().type == tokenize.ENCODING
        assert child.result().string == "("
        with pytest.raises(tokenize.TokenError):
            [child.result() for _ in range(7)]


@pytest.mark.slow
def test_ranks_are_those_of_one_cell_after_the_other(taught, tmp_path):
    """The real builder in a process of its own, beside real trainings."""
    cells = [cell for cell in taught.cells if cell.label.seed == 1]
    more = {"cells": cells, "build": artefacts.build}
    _, beside = artefacts.builders(in_process=False)
    done = run(taught, tmp_path / "r", DaskEngine(1), **more, build_beside=beside)
    assert (done.ran, done.failures) == (2, {})
    run(taught, tmp_path / "serial", SerialEngine(), **more)
    for cell in cells:
        a, b = (rundir.run_path(tmp_path / name, cell.cell) / "ranks.parquet" for name in ("r", "serial"))
        assert a.read_bytes() == b.read_bytes()
