"""Files that are made from a run are made again when the run is replaced at its own address."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.cold_start import _of_a_run_before
from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.derived import KEY, made_from, state_of
from recbole_kd.benchmark.plan import _other_retriever


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def ranked(run, digest: str) -> None:
    manifest = {"files": {"ranks.parquet": {"sha256": digest}}}
    (run / rundir.MANIFEST).write_text(json.dumps(manifest))


def test_a_file_knows_its_runs(run, tmp_path):
    path, other = tmp_path / "made.parquet", tmp_path / "other"
    other.mkdir()
    ranked(run, "one")
    ranked(other, "two")
    assert not made_from(path, run)
    table = pa.table({"x": [1]})
    pq.write_table(table.replace_schema_metadata({KEY: state_of(run, other)}), path)
    assert made_from(path, run, other)
    assert not made_from(path, run)
    ranked(other, "three")
    assert not made_from(path, run, other)
    pq.write_table(table, path)
    assert not made_from(path, run), "it was written before files said so"
    path.write_bytes(b"half")
    assert not made_from(path, run)


def test_tables_pass_over_a_file_of_a_run_that_was_replaced(run, tmp_path):
    path, manifest = tmp_path / "made.parquet", {"files": {"ranks.parquet": {"sha256": "one"}}}
    ranked(run, "one")
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({KEY: state_of(run)}), path)
    assert not _of_a_run_before(path, manifest)
    manifest["files"]["ranks.parquet"]["sha256"] = "two"
    assert _of_a_run_before(path, manifest)


def test_a_cell_whose_retriever_ranks_otherwise_now_runs_again(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "fault", lambda path, cell: None)
    retriever, path = (rundir.run_path(tmp_path, name) for name in ("first", "second"))
    for folder in (retriever, path):
        folder.mkdir(parents=True)
    ranked(retriever, "one")
    ranker = {"retriever": "first", "retriever_run": state_of(retriever)}
    manifest = {"ranker": ranker}
    assert _other_retriever(tmp_path, path, manifest) is None
    ranked(retriever, "two")
    assert "its retriever first has been trained again" in _other_retriever(tmp_path, path, manifest)
    del ranker["retriever_run"]
    assert _other_retriever(tmp_path, path, manifest) is None, "written before runs said so"
    assert _other_retriever(tmp_path, path, {"ranker": None}) is None
