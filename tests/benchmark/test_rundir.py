import errno
import importlib.util
import json
import os
from pathlib import Path

import pytest

from recbole_kd.benchmark import rundir
from recbole_kd.errors import StoreError

_SPEC = importlib.util.spec_from_file_location("fake_cells", Path(__file__).with_name("fake_cells.py"))
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)

CELL = "0123456789abcdef"
LABEL = {"dataset": "tiny", "backbone": "SASRec", "variant": "plain", "seed": 1}


@pytest.fixture
def run(tmp_path):
    fake.write_fake_run(tmp_path, CELL, LABEL)
    return rundir.run_path(tmp_path, CELL)


def test_a_run_is_whole_and_alone(tmp_path, run):
    assert rundir.fault(run, CELL) is None
    assert {p.name for p in run.iterdir()} == {*rundir.FILES, rundir.MANIFEST}
    assert [p.name for p in rundir.runs_folder(tmp_path).iterdir()] == [CELL]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "manifest.json").write_text("{"), "not JSON"),
        (lambda run: (run / "manifest.json").write_text("[1]"), "not a JSON object"),
        (lambda run: (run / "manifest.json").unlink(), "cannot be read"),
        (lambda run: os.truncate(run / "ranks.parquet", 100), "100 bytes"),
        (lambda run: (run / "model.safetensors").unlink(), "missing"),
        (lambda run: flip(run / "ranks.parquet"), "content differs"),
        (lambda run: edit(run, cell="f" * 16), "does not belong"),
        (lambda run: edit(run, status="running"), "does not belong"),
        (lambda run: edit(run, format=2), "format 2"),
        (lambda run: edit(run, files=None), "lists no files"),
    ],
)
def test_every_damage_is_seen(run, damage, said):
    damage(run)
    assert said in rundir.fault(run, CELL)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def edit(run, **changes):
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_failing_writer_leaves_nothing(tmp_path):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    writers = dict.fromkeys(("ranks.parquet", "history.parquet", "model.safetensors"), full)
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        rundir.write_run(tmp_path, CELL, {}, {}, writers)
    assert list(rundir.runs_folder(tmp_path).iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path, run):
    before = (run / "manifest.json").read_bytes()
    fake.write_fake_run(tmp_path, CELL, {**LABEL, "variant": "other"})
    assert (run / "manifest.json").read_bytes() == before
    assert [p.name for p in rundir.runs_folder(tmp_path).iterdir()] == [CELL]
