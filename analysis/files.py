"""Atomic writing."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_kd.errors import StoreError


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all: temporary name in the same folder, then rename.

    Raises
    ------
    StoreError
        The folder cannot be written; nothing is left behind.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: cannot be written ({reason}); free space or mend the rights") from None
    return path
