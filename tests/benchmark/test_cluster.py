"""A real cluster: scheduler and workers are processes of their own, on loopback."""

import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from recbole_kd.benchmark import machine, rundir
from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import UserError


def beside(name):
    """Load a module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake, net = beside("fake_cells"), beside("cluster")
SMALL = {"device": "cpu", "build": fake.no_artefacts, "figures": False}


@pytest.fixture
def two_workers():
    made = net.Cluster(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gpu_worker():
    """One worker that says it has a GPU; who asks it only reads, so all tests share it."""
    made = net.Cluster(1, "--resources", "GPU=1")
    yield made
    made.close()


def outputs(results):
    return {p.name: p.read_bytes() for p in sorted((results / "small").iterdir()) if p.is_file()}


def test_a_worker_killed_in_mid_cell_changes_nothing(two_workers, place, write_experiment, tmp_path):
    write_experiment("small", {"seeds": [1, 2, 3, 4, 5]})
    experiment = load_experiment("small")
    run_sweep(experiment, tmp_path / "serial", SerialEngine(fake.fake_cell(0, None)), JsonReporter(), **SMALL)
    results, log, started = tmp_path / "r", tmp_path / "log", tmp_path / "started"
    engine = DaskEngine(1, scheduler=two_workers.address, function=fake.telling_cell(0.4, log, started))
    killed = []

    class KillOnce(JsonReporter):
        def finished(self, state, outcome, metric):
            if killed:
                return
            busy = dict(line.split() for line in started.read_text().splitlines())
            over = {line.split()[0] for line in log.read_text().splitlines()}
            at_work = [int(pid) for cell, pid in busy.items() if cell not in over]
            if at_work:
                os.kill(at_work[-1], signal.SIGKILL)
                killed.append(at_work[-1])

    done = run_sweep(experiment, results, engine, KillOnce(), **SMALL)
    assert killed
    assert killed[0] in {w.pid for w in two_workers.workers}
    assert done.failures == {}
    cells = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(cells) == len(set(cells)) == 10
    twice = [line.split()[0] for line in started.read_text().splitlines()]
    assert len(twice) > 10
    assert outputs(results) == outputs(tmp_path / "serial")
    assert not list(rundir.orphans(results))


def test_cells_wait_for_a_worker_with_the_resource(gpu_worker, place, tmp_path):
    log = tmp_path / "log"
    engine = DaskEngine(
        1, scheduler=gpu_worker.address, resources={"GPU": 0.5}, function=fake.fake_cell(0, log)
    )
    done = run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)
    assert done.ran == 4


def test_no_scheduler_at_the_address(place, tmp_path):
    engine = DaskEngine(1, scheduler="tcp://127.0.0.1:9", function=fake.fake_cell(0, None), patience="1s")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)
    assert time.monotonic() - started < 60
    assert not (tmp_path / "r").exists()


def test_a_scheduler_is_not_asked_when_every_cell_exists(place, tmp_path, capsys):
    results = tmp_path / "r"
    run_sweep(
        load_experiment("small"), results, SerialEngine(fake.fake_cell(0, None)), JsonReporter(), **SMALL
    )
    command = ["run", "small", "--results", str(results), "--scheduler", "tcp://127.0.0.1:9", "--json"]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert not end.value.code, capsys.readouterr().err


def test_workers_that_could_never_take_a_cell_are_refused(gpu_worker, place, tmp_path):
    until_there(gpu_worker)
    engine = DaskEngine(
        1, scheduler=gpu_worker.address, resources={"GPU": 1.5}, function=fake.fake_cell(0, None)
    )
    with pytest.raises(UserError, match=r"none of its 1 workers has what a cell takes.*GPU=1\.5"):
        run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)


def test_workers_with_other_code_are_refused(gpu_worker, place, tmp_path, monkeypatch):
    until_there(gpu_worker)
    monkeypatch.setattr(machine, "code", lambda: {"source": "of another revision"})
    engine = DaskEngine(1, scheduler=gpu_worker.address, function=fake.fake_cell(0, None))
    with pytest.raises(UserError, match="runs another state of recbole_kd"):
        run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)


def until_there(cluster):
    """Wait for the workers, so that they can be looked at."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(len(cluster.workers), timeout=120)
