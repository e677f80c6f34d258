"""A results folder that runs full or is read-only (a tmpfs of its own; needs the right to mount)."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.console import JsonReporter
from recbole_kd.benchmark.engines import SerialEngine
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.sweep import run_sweep
from recbole_kd.errors import StoreError

_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def sweep(results):
    engine = SerialEngine(fake.reporting_cell)
    options = {"device": "cpu", "build": fake.no_artefacts, "figures": False}
    return run_sweep(load_experiment("small"), results, engine, JsonReporter(), **options)


def fill(disk, leave):
    """Write a file that leaves ``leave`` bytes free."""
    ballast = disk / "ballast"
    size = 400 * 1024 - sum(p.stat().st_blocks * 512 for p in disk.rglob("*")) - leave
    ballast.write_bytes(b"0" * size)
    return ballast


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(place, small_disk, tmp_path, capsys):
    sweep(tmp_path / "whole")
    results = small_disk / "r"
    results.mkdir()
    ballast = fill(small_disk, leave=64 * 1024)
    done = sweep(results)
    assert done.failures
    assert all("the disk is full" in f["error"] for f in done.failures.values())
    whole = [p for p in rundir.finished(results) if rundir.fault(p, p.name) is None]
    assert len(whole) == len(list(rundir.finished(results))) == 4 - len(done.failures) >= 1
    assert not list(rundir.orphans(results))
    stamps = {p: p.stat().st_mtime_ns for p in whole}
    ballast.unlink()
    done = sweep(results)
    assert (done.ran, done.failures, done.unwritten) == (4 - len(whole), {}, None)
    assert stamps == {p: p.stat().st_mtime_ns for p in whole}
    for path in (tmp_path / "whole" / "small").iterdir():
        assert (results / "small" / path.name).read_bytes() == path.read_bytes()


def test_a_read_only_folder_is_one_clear_line(place, small_disk, capsys):
    results = small_disk / "r"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        StoreError, match="the file system is read-only; choose another folder with --results"
    ):
        sweep(results)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    sweep(results)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    done = sweep(results)
    assert (done.ran, done.reused) == (0, 4)
    assert "read-only" in done.unwritten.lower()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "end"
