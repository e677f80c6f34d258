"""A real cluster: scheduler and workers are processes of their own, on loopback."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)
SMALL = {"device": "cpu", "build": fake.no_artefacts, "figures": False}


class Cluster:
    """A scheduler and workers, each started from the command line."""

    def __init__(self, workers: int, *options: str) -> None:
        self.log = ""
        self.scheduler = self._start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        self.address = self._wait_for_address()
        common = (self.address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0", *options)
        self.workers = [
            self._start("distributed.cli.dask_worker", *common, "--no-nanny", "--name", f"w{i}")
            for i in range(workers)
        ]

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[str]":
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _wait_for_address(self) -> str:
        for line in self.scheduler.stdout:
            self.log += line
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
            if found:
                return found.group(1)
        raise AssertionError(self.log)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def cluster(request):
    made = Cluster(*request.param)
    yield made
    made.close()


def outputs(results):
    return {p.name: p.read_bytes() for p in sorted((results / "small").iterdir()) if p.is_file()}


@pytest.mark.parametrize("cluster", [(3,)], indirect=True)
def test_a_worker_killed_in_mid_cell_changes_nothing(cluster, place, write_experiment, tmp_path):
    write_experiment("small", {"seeds": [1, 2, 3, 4, 5]})
    experiment = load_experiment("small")
    run_sweep(experiment, tmp_path / "serial", SerialEngine(fake.fake_cell(0, None)), JsonReporter(), **SMALL)
    results, log, started = tmp_path / "r", tmp_path / "log", tmp_path / "started"
    engine = DaskEngine(1, scheduler=cluster.address, function=fake.telling_cell(0.4, log, started))
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
    assert killed[0] in {w.pid for w in cluster.workers}
    assert done.failures == {}
    cells = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(cells) == len(set(cells)) == 10
    twice = [line.split()[0] for line in started.read_text().splitlines()]
    assert len(twice) > 10
    assert outputs(results) == outputs(tmp_path / "serial")
    assert not list(rundir.orphans(results))


@pytest.mark.parametrize("cluster", [(1, "--resources", "GPU=1")], indirect=True)
def test_cells_wait_for_a_worker_with_the_resource(cluster, place, tmp_path):
    log = tmp_path / "log"
    engine = DaskEngine(1, scheduler=cluster.address, resources={"GPU": 0.5}, function=fake.fake_cell(0, log))
    done = run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)
    assert done.ran == 4


def test_no_scheduler_at_the_address(place, tmp_path):
    engine = DaskEngine(1, scheduler="tcp://127.0.0.1:9", function=fake.fake_cell(0, None), patience="1s")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        run_sweep(load_experiment("small"), tmp_path / "r", engine, JsonReporter(), **SMALL)
    assert time.monotonic() - started < 60
