"""Cells as jobs of a real single-node SLURM (Debian: slurm-wlm, munge; root)."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import DaskEngine, SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.slurm import load_slurm
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import SpecError

HERE = Path(__file__).resolve().parent
_SPEC = importlib.util.spec_from_file_location("fake_cells", HERE / "fake_cells.py")
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


@pytest.mark.slow
def test_a_sweep_as_slurm_jobs_gives_the_same_table(slurm, place, tmp_path):
    profile = yaml.safe_load((HERE.parents[1] / "properties/slurm/example.yaml").read_text())
    profile |= {
        "jobs": 2,
        "memory": "1GB",
        "host": "127.0.0.1",
        "logs": str(tmp_path / "logs"),
        "interface": "lo",
    }
    profile |= {"prologue": [f"export PYTHONPATH={HERE.parents[1]}"], "directives": ["--mem=0"]}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(profile))
    experiment = load_experiment("small")
    options = {"device": "cpu", "build": fake.no_artefacts, "figures": False}
    run_sweep(
        experiment, tmp_path / "serial", SerialEngine(fake.fake_cell(0, None)), JsonReporter(), **options
    )
    log = tmp_path / "log"
    spec = load_slurm(str(tmp_path / "slurm.yaml"))
    engine = DaskEngine(2, slurm=spec, function=fake.fake_cell(0.2, log))
    done = run_sweep(experiment, tmp_path / "r", engine, JsonReporter(), **options)
    assert (done.ran, done.failures) == (4, {})
    jobs = subprocess.run(["sinfo", "-h", "-o", "%C"], capture_output=True, text=True, check=True).stdout
    assert jobs.strip()
    assert os.getpid() not in {int(line.split()[1]) for line in log.read_text().splitlines()}
    for path in (tmp_path / "serial" / "small").iterdir():
        assert (tmp_path / "r" / "small" / path.name).read_bytes() == path.read_bytes()


def test_a_slip_in_a_profile_names_file_and_line(tmp_path):
    text = (HERE.parents[1] / "properties/slurm/example.yaml").read_text().replace("queue:", "partition:")
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"s\.yaml:\d+: slurm: unknown key 'partition'"):
        load_slurm(str(tmp_path / "s.yaml"))
