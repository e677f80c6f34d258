"""Real trainings (tiny ones) where processes die: on a cluster, under a killed driver, as SLURM jobs."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import build
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep

# A loaded machine needs minutes for what takes seconds; nothing here measures time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
HERE = Path(__file__).resolve().parent
REAL = {"device": "cpu", "build": build, "figures": False}


def beside(name):
    """Load a module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake, net = beside("fake_cells"), beside("cluster")


def write_taught(place, write_experiment, seeds, epochs):
    """An experiment of plain, distilled and RecBole's own cells; small models, ``epochs`` epochs."""
    users = np.array([f"u{i}" for i in range(1, 31)])
    np.savez(place / "e.npz", users=users, vectors=np.random.default_rng(0).normal(size=(30, 6)))
    small = {
        "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
        "train": {"epochs": epochs, "stopping_step": epochs, "train_batch_size": 16},
    }
    kd = {**small, "embeddings": str(place / "e.npz"), "trust_unverified": True}
    write_experiment("small", {"variants": {"plain": small, "kd": kd}, "seeds": list(range(seeds))})
    return load_experiment("small")


def outputs(results):
    """Bytes of the tables, and of the ranks of every run."""
    files = {p.name: p.read_bytes() for p in sorted((results / "small").iterdir()) if p.is_file()}
    return files | {p.parent.name: p.read_bytes() for p in results.glob("runs/*/ranks.parquet")}


def lines(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def leftovers(*folders):
    """Temporary folders and files, hidden or Dask's, that a dead process may have left."""
    hidden = [p for f in folders for p in f.rglob(".*") if ".locks" not in p.parts]
    return hidden + [p for f in folders for p in f.rglob("worker-*") if p.is_dir()]


@contextmanager
def driven(command, env):
    """A driver that is killed with -9 at the end of the block."""
    driver = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield driver
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()


def wait_until(met, driver):
    deadline = time.monotonic() + 600
    while not met():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(params=["namespaces", "loopback"])
def cluster(request):
    """Scheduler and three workers as processes, in a network namespace each or on loopback."""
    with ExitStack() as stack:
        places = ()
        if request.param == "namespaces":
            try:
                places = stack.enter_context(net.namespaces(4))
            except OSError as error:
                pytest.skip(f"network namespaces: {error}")
        made = net.Cluster(3, places=places)
        stack.callback(made.close)
        yield made


def test_a_worker_killed_while_it_trains_changes_no_byte(cluster, place, write_experiment, tmp_path):
    experiment = write_taught(place, write_experiment, seeds=4, epochs=20)
    serial, results = tmp_path / "serial", tmp_path / "r"
    run_sweep(experiment, serial, SerialEngine(), JsonReporter(), **REAL)
    log, epochs = tmp_path / "log", tmp_path / "epochs"
    killed = []

    def kill_one():
        """Once a cell has ended, kill a worker that is between two epochs of another."""
        while not killed and not finished.is_set():
            over = {cell for cell, _ in lines(log)}
            busy = [(cell, int(pid)) for cell, pid in lines(epochs) if cell not in over]
            if over and busy:
                os.kill(busy[-1][1], signal.SIGKILL)
                killed.append(busy[-1])
            time.sleep(0.005)

    finished = threading.Event()
    killer = threading.Thread(target=kill_one)
    killer.start()
    engine = DaskEngine(1, scheduler=cluster.address, function=fake.real_cell(log, epochs))
    try:
        done = run_sweep(experiment, results, engine, JsonReporter(), **REAL)
    finally:
        finished.set()
        killer.join()
    assert killed
    assert killed[0][1] in {w.pid for w in cluster.workers}
    assert done.failures == {}
    ended = [cell for cell, _ in lines(log)]
    assert len(ended) == len(set(ended)) == 8
    assert len({pid for cell, pid in lines(epochs) if cell == killed[0][0]}) == 2
    assert outputs(results) == outputs(serial)
    assert not leftovers(results)


def test_five_kills_of_the_driver_of_24_trainings(place, write_experiment, tmp_path):
    experiment = write_taught(place, write_experiment, seeds=12, epochs=12)
    assert len(experiment.cells) == 24
    run_sweep(experiment, tmp_path / "serial", SerialEngine(), JsonReporter(), **REAL)
    results, log, scratch = tmp_path / "r", tmp_path / "log", tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, HERE / "fake_cells.py", "small", results, "2", "real", log]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "TMPDIR": str(scratch)}
    draw = random.Random(5)
    for _ in range(5):
        goal = len(lines(log)) + draw.randint(0, 3)
        with driven(command, env) as driver:
            wait_until(lambda goal=goal: len(lines(log)) >= goal, driver)
            time.sleep(draw.uniform(0, 1.5))
            assert driver.poll() is None
    kept = {p: p.stat().st_mtime_ns for p in results.glob("runs/*/manifest.json")}
    assert 0 < len(kept) < 24
    assert subprocess.run(command, env=env, stdout=subprocess.DEVNULL, timeout=3000).returncode == 0
    ended = [cell for cell, _ in lines(log)]
    assert len(ended) == len(set(ended))
    assert set(ended) <= {c.cell for c in experiment.cells}
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())
    assert outputs(results) == outputs(tmp_path / "serial")
    assert not leftovers(results, scratch)


def test_a_checkpoint_folder_of_recbole_s_trainer_does_not_outlive_a_kill(place, write_experiment, tmp_path):
    variants = {"plain": {"train": {"epochs": 400, "stopping_step": 400, "train_batch_size": 32}}}
    write_experiment("base", {"variants": variants, "backbones": ["recbole:GRU4Rec"], "seeds": [1]})
    results, scratch = tmp_path / "r", tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, HERE / "fake_cells.py", "base", results, "0", "real", tmp_path / "log"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "TMPDIR": str(scratch)}
    with driven(command, env) as driver:
        wait_until(lambda: list(results.glob("runs/.tmp-*/*.pth")), driver)
    assert list(rundir.orphans(results))
    variants["plain"]["train"] |= {"epochs": 1}
    write_experiment("base", {"variants": variants, "backbones": ["recbole:GRU4Rec"], "seeds": [1]})
    run_sweep(load_experiment("base"), results, SerialEngine(), JsonReporter(), **REAL)
    assert not leftovers(results, scratch)


def test_trainings_as_slurm_jobs_one_of_them_cancelled(slurm, place, write_experiment, tmp_path):
    from recbole_kd.benchmark.slurm import load_slurm

    experiment = write_taught(place, write_experiment, seeds=2, epochs=40)
    run_sweep(experiment, tmp_path / "serial", SerialEngine(), JsonReporter(), **REAL)
    profile = yaml.safe_load((HERE.parents[1] / "properties/slurm/example.yaml").read_text())
    profile |= {"jobs": 2, "memory": "1GB", "host": "127.0.0.1", "interface": "lo"}
    profile |= {"logs": str(tmp_path / "logs"), "directives": ["--mem=0"]}
    profile["prologue"] = [f"export PYTHONPATH={HERE.parents[1]}:{HERE}"]
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(profile))
    log, epochs = tmp_path / "log", tmp_path / "epochs"
    cancelled = []

    def cancel_one():
        while not cancelled and not finished.is_set():
            over = {cell for cell, _ in lines(log)}
            if [cell for cell, _ in lines(epochs) if cell not in over]:
                found = subprocess.run(
                    ["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True, timeout=20
                ).stdout.split()
                if found:
                    subprocess.run(["scancel", "-s", "KILL", found[0]], check=True, timeout=20)
                    cancelled.append(found[0])
            time.sleep(0.01)

    finished = threading.Event()
    canceller = threading.Thread(target=cancel_one)
    canceller.start()
    spec = load_slurm(str(tmp_path / "slurm.yaml"))
    engine = DaskEngine(2, slurm=spec, function=fake.real_cell(log, epochs))
    try:
        done = run_sweep(experiment, tmp_path / "r", engine, JsonReporter(), **REAL)
    finally:
        finished.set()
        canceller.join()
    assert cancelled
    assert (done.ran, done.failures) == (4, {})
    assert os.getpid() not in {int(pid) for _, pid in lines(log)}
    assert outputs(tmp_path / "r") == outputs(tmp_path / "serial")
