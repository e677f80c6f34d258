"""Files that are made from a finished run, and from which one: a run can be replaced at its own address."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.benchmark import rundir

KEY = "run"
"""Key of the metadata of a parquet file that holds :func:`state_of`."""


def state_of(*runs: Path) -> str:
    """What a file that is made from run directories was made from: digests of their ranks.

    Raises
    ------
    StoreError
        A manifest is missing or damaged.
    """
    return " ".join(str(rundir.read_manifest(run)["files"]["ranks.parquet"]["sha256"]) for run in runs)


def made_from(path: Path, *runs: Path) -> bool:
    """Whether a parquet file is there and was made from these runs as they are now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return bool(metadata.get(KEY.encode()) == state_of(*runs).encode())
