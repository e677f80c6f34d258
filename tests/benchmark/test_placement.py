"""Which GPU a cell gets: placement with a made-up machine, since no test machine needs to have one."""

import os
import stat

import pytest

from recbole_kd.benchmark import machine
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.executor import DONE, CellTask, Outcome
from recbole_kd.benchmark.placement import Where, make_engine, places, resolve_device
from recbole_kd.benchmark.slurm import SlurmSpec, load_slurm
from recbole_kd.errors import UserError


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with two GPUs, as ``nvidia-smi -L`` lists them; CUDA_VISIBLE_DEVICES is not set."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: Made Up (UUID: GPU-a)'\necho 'GPU 1: Made Up (UUID: GPU-b)'\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", list)


def placed(**options):
    engine, device = make_engine(Where(**options))
    return engine, device


def test_visible_gpus_follow_the_environment(gpus, monkeypatch):
    assert machine.visible_gpus() == ["0", "1"]
    for value, expected in (("1", ["1"]), ("GPU-b,GPU-a", ["GPU-b", "GPU-a"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert machine.visible_gpus() == expected


def test_one_cell_per_gpu_by_default_and_several_when_told(gpus):
    engine, device = placed()
    assert (device, engine._gpus, engine.workers) == ("cuda", ["0", "1"], 2)
    engine, _ = placed(per_gpu=3)
    assert engine._gpus == ["0", "1"] * 3
    engine, _ = placed(per_gpu=2, workers=3)
    assert engine._gpus == ["0", "1", "0"]
    with pytest.raises(UserError, match=r"--workers 3: 2 GPUs take 2 cells at a time; raise --cells-per-gpu"):
        placed(workers=3)
    assert places(["7"], None, 2) == ["7", "7"]


def test_a_numbered_gpu_is_the_first_one_of_its_worker_and_keeps_its_number_in_this_process(gpus):
    engine, device = placed(device="cuda:1")
    assert (device, engine._gpus) == ("cuda", ["1"])
    engine, device = placed(device="cuda:1", workers=0)
    assert isinstance(engine, SerialEngine)
    assert device == "cuda:1"
    with pytest.raises(UserError, match="this machine shows 2 GPUs"):
        placed(device="cuda:2")


def test_cpu_cells_on_a_machine_with_gpus(gpus):
    engine, device = placed(device="cpu", workers=5)
    assert (device, engine._gpus, engine.workers, engine._resources) == ("cpu", [], 5, None)


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(no_gpu):
    assert resolve_device("auto") == ("cpu", [])
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match="this machine shows no GPU"):
            placed(device=device)
    for device in ("gpu", "cuda:x", "cuda:"):
        with pytest.raises(UserError, match="use cpu, cuda, cuda:N or auto"):
            placed(device=device)


def test_a_cluster_needs_no_gpu_here_and_its_cells_take_a_share(no_gpu):
    engine, device = placed(scheduler="tcp://127.0.0.1:9", device="cuda", per_gpu=4)
    assert (device, engine._resources, engine._gpus) == ("cuda", {"GPU": 0.25}, [])
    engine, device = placed(scheduler="tcp://127.0.0.1:9")
    assert (device, engine._resources) == ("cpu", None)
    with pytest.raises(UserError, match="the workers choose their GPU"):
        placed(scheduler="tcp://127.0.0.1:9", device="cuda:0")
    with pytest.raises(UserError, match="give one of them"):
        placed(scheduler="tcp://127.0.0.1:9", slurm="example")
    with pytest.raises(UserError, match="leave out --scheduler and --slurm"):
        placed(scheduler="tcp://127.0.0.1:9", workers=0)


def test_every_local_worker_sees_its_own_gpu_only(gpus):
    def gpu_of(task=None):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        return seen if task is None else Outcome(task.cell, DONE, error=seen)

    engine, _ = placed(per_gpu=2)
    engine._function = gpu_of
    with engine:
        engine._kept[1].wait_for_workers(4, timeout=120)
        answers = engine._kept[1].run(gpu_of)
        outcomes = list(engine.run([task(str(i)) for i in range(4)]))
    assert sorted(answers.values()) == ["0", "0", "1", "1"]
    assert {o.error for o in outcomes} <= {"0", "1"}


def task(cell):
    return CellTask("r", cell, {}, {}, "s", None, "cuda", ())


@pytest.fixture
def profile():
    return load_slurm("example").canonical()


def test_a_slurm_job_announces_the_shares_of_its_gpu(profile, monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue")
    from recbole_kd.benchmark import slurm

    asked = {}

    class Cluster:
        def __init__(self, **options):
            asked.update(options)

        def adapt(self, minimum_jobs, maximum_jobs):
            asked["jobs"] = (minimum_jobs, maximum_jobs)

    monkeypatch.setattr(jobqueue, "SLURMCluster", Cluster)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    slurm.start_cluster(SlurmSpec(**{**profile, "jobs": 8, "gpus": 1}), cells=5, per_gpu=2)
    assert asked["jobs"] == (3, 3)
    assert (asked["processes"], asked["cores"], asked["job_cpu"]) == (2, 2, 1)
    assert "--resources GPU=0.5" in asked["worker_extra_args"]
    assert "--gres=gpu:1" in asked["job_extra_directives"]
    slurm.start_cluster(SlurmSpec(**{**profile, "jobs": 8, "cores": 4}), cells=9)
    assert asked["jobs"] == (3, 3)
    assert (asked["processes"], asked["cores"]) == (4, 4)
    assert not [a for a in asked["worker_extra_args"] if "GPU" in a]


def test_a_slurm_profile_and_a_device_that_do_not_fit(profile, tmp_path):
    import yaml

    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**profile, "gpus": 1}))
    engine, device = placed(slurm=str(tmp_path / "s.yaml"), per_gpu=2)
    assert (device, engine._resources, engine.workers) == ("cuda", {"GPU": 0.5}, 16)
    with pytest.raises(UserError, match="'gpus: 1' does not fit --device cpu"):
        placed(slurm=str(tmp_path / "s.yaml"), device="cpu")
    with pytest.raises(UserError, match="'gpus: 0' does not fit --device cuda"):
        placed(slurm="example", device="cuda")


def test_two_threads_of_one_process_never_train_at_once(tmp_path, monkeypatch):
    """Random streams belong to the process, so that a worker with several threads takes turns."""
    import threading
    import time

    from recbole_kd.benchmark import executor

    at_work, most = [], []

    def slow(task, results, on_epoch, fitted):
        at_work.append(task.cell)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.remove(task.cell)

    monkeypatch.setattr(executor, "_run", slow)
    tasks = [CellTask(str(tmp_path), str(i), {}, {}, "s", None, "cpu", ()) for i in range(4)]
    outcomes = []
    threads = [threading.Thread(target=lambda t=t: outcomes.append(executor.run_cell(t))) for t in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert {o.status for o in outcomes} == {DONE}
