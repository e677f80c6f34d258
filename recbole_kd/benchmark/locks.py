"""Advisory locks that die with their owner.

The kernel drops an ``flock`` when its process ends, however it ends, so a killed driver or
worker never blocks the next one. On a file system without ``flock``, ``filelock`` writes process
id and host into the lock file instead, and takes it over on that host once the process is gone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recbole_kd.errors import StoreError


@contextmanager
def try_lock(results: Path, name: str) -> Iterator[bool]:
    """Try to take the lock ``name`` of a results folder without waiting.

    Yields
    ------
    bool
        ``True`` while the lock is held by this process, ``False`` when somebody else has it.
    """
    with _lock(results, name, timeout=0) as held:
        yield held


@contextmanager
def wait_lock(results: Path, name: str) -> Iterator[None]:
    """Take the lock ``name``, waiting until its owner lets go or dies; a wait is announced."""
    with ExitStack() as stack:
        if not stack.enter_context(try_lock(results, name)):
            sys.stderr.write(f"waiting for another process that holds {_path(results, name)}\n")
            stack.enter_context(_lock(results, name, timeout=-1))
        yield


def in_use(results: Path) -> bool:
    """Whether somebody holds any lock of a results folder."""
    for path in sorted((results / ".locks").glob("*.lock")):
        with try_lock(results, path.stem) as held:
            if not held:
                return True
    return False


@contextmanager
def _lock(results: Path, name: str, timeout: float) -> Iterator[bool]:
    from filelock import FileLock, Timeout

    path = _path(results, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=timeout)
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot hold a lock here ({error.strerror or error})") from error
    try:
        yield True
    finally:
        lock.release()


def _path(results: Path, name: str) -> Path:
    return results / ".locks" / f"{name}.lock"
