"""Run directories: they exist whole or not at all.

A run is written to a temporary folder beside its final place, flushed to disk and renamed. The
manifest lists the size of every file and the SHA-256 of those that numbers are read from, so
that a truncated or altered directory is found, set aside and run again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.errors import StoreError

FORMAT = 1
MANIFEST = "manifest.json"
FILES = ("spec.yaml", "ranks.parquet", "history.parquet", "model.safetensors")
HASHED = ("spec.yaml", "ranks.parquet", "history.parquet")
_TMP, _ASIDE = ".tmp-", ".corrupt-"


def runs_folder(results: Path) -> Path:
    """Folder of the run directories below ``results``."""
    return results / "runs"


def run_path(results: Path, cell: str) -> Path:
    """Final place of the run of cell digest ``cell``."""
    return runs_folder(results) / cell


def read_manifest(path: Path) -> dict[str, Any]:
    """Read ``manifest.json`` of a run directory.

    Raises
    ------
    StoreError
        It is missing or is not a JSON object.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StoreError(f"{file}: is not JSON; run the same command again to replace it") from error
    if not isinstance(manifest, dict):
        raise StoreError(f"{file}: is not a JSON object; run the same command again to replace it")
    return manifest


def fault(path: Path, cell: str) -> str | None:
    """Say what is wrong with the run directory ``path``, or ``None`` when it is whole.

    Parameters
    ----------
    path : Path
        An existing directory.
    cell : str
        The digest that it must have been written for.
    """
    try:
        manifest = read_manifest(path)
    except StoreError as error:
        return str(error)
    if manifest.get("format") != FORMAT:
        return f"{path / MANIFEST}: format {manifest.get('format')!r}, expected {FORMAT}"
    if manifest.get("cell") != cell or manifest.get("status") != "done":
        return f"{path / MANIFEST}: does not belong to a finished cell {cell}"
    files = manifest.get("files")
    if not isinstance(files, dict):
        return f"{path / MANIFEST}: lists no files"
    for name in FILES:
        try:
            entry, size = files[name], (path / name).stat().st_size
            if size != entry["bytes"]:
                return f"{path / name}: {size} bytes, {entry['bytes']} were written"
            if name in HASHED and _sha256(path / name) != entry["sha256"]:
                return f"{path / name}: content differs from what was written"
        except (OSError, KeyError, TypeError):
            return f"{path / name}: missing"
    return None


def whole(results: Path, cell: str) -> bool:
    """Whether there is a run of the cell, and nothing is wrong with it."""
    path = run_path(results, cell)
    return path.is_dir() and fault(path, cell) is None


def set_aside(path: Path) -> Path:
    """Rename a corrupt run directory to a hidden name beside it and return that name."""
    target = path.with_name(f"{_ASIDE}{path.name}-{secrets.token_hex(3)}")
    with _explained(path):
        os.rename(path, target)
    return target


def write_run(
    results: Path,
    cell: str,
    spec: Mapping[str, Any],
    manifest: Mapping[str, Any],
    writers: Mapping[str, Callable[[Path], None]],
) -> Path:
    """Write one run directory, whole or not at all.

    Parameters
    ----------
    results : Path
    cell : str
        Cell digest, the name of the directory.
    spec, manifest : mapping
        ``manifest`` gets ``format``, ``cell``, ``status`` and ``files`` added.
    writers : mapping of file name to callable
        Each writes its file at the path it is given.

    Returns
    -------
    Path
        The run directory; when another process finished the same cell first, theirs.

    Raises
    ------
    StoreError
        Disk full, read-only folder and the like; nothing is left behind.
    """
    runs = runs_folder(results)
    final = run_path(results, cell)
    with _explained(runs):
        runs.mkdir(parents=True, exist_ok=True)
        tmp = runs / f"{_TMP}{cell}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        try:
            tmp.mkdir()
            (tmp / "spec.yaml").write_text(yaml.safe_dump(dict(spec), sort_keys=True), encoding="utf-8")
            for name, write in writers.items():
                write(tmp / name)
            files = {name: _entry(tmp / name) for name in dict.fromkeys((*FILES, *writers))}
            whole = {"format": FORMAT, "cell": cell, "status": "done", **manifest, "files": files}
            (tmp / MANIFEST).write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            for name in (*files, MANIFEST):
                _flush(tmp / name)
            _flush(tmp)
            _rename(tmp, final)
            _flush(runs)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return final


@contextmanager
def scratch(results: Path, cell: str) -> Iterator[Path]:
    """A folder for the files of a cell at work; if its process is killed, the next sweep deletes it.

    The caller holds the lock of the cell.
    """
    runs = runs_folder(results)
    with _explained(runs):
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_TMP}{cell}-", dir=runs))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def orphans(results: Path) -> Iterator[tuple[str, Path]]:
    """Yield (cell digest, path) of temporary folders that an interrupted process left."""
    for path in sorted(runs_folder(results).glob(f"{_TMP}*")):
        yield path.name.removeprefix(_TMP).split("-", 1)[0], path


def set_aside_folders(results: Path) -> list[Path]:
    """Corrupt run directories that were set aside."""
    return sorted(runs_folder(results).glob(f"{_ASIDE}*"))


def finished(results: Path) -> Iterator[Path]:
    """Yield every run directory (not validated)."""
    runs = runs_folder(results)
    if runs.is_dir():
        yield from sorted(p for p in runs.iterdir() if p.is_dir() and not p.name.startswith("."))


def write_text_atomic(path: Path, text: str) -> None:
    """Write a small text file: temporary name in the same folder, flush, rename."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(3)}")
        try:
            tmp.write_text(text, encoding="utf-8")
            _flush(tmp)
            os.replace(tmp, path)
        finally:
            tmp.unlink(missing_ok=True)


def _rename(tmp: Path, final: Path) -> None:
    try:
        os.rename(tmp, final)
    except OSError as error:
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        if not taken or fault(final, final.name) is not None:
            raise


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an operating system error into one line that names the folder and the mend."""
    try:
        yield
    except OSError as error:
        mend = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EROFS: "the file system is read-only; choose another folder with --results",
            errno.EACCES: "no permission to write; choose another folder with --results",
            errno.EPERM: "no permission to write; choose another folder with --results",
        }.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"{error.filename or path}: {mend}") from error
