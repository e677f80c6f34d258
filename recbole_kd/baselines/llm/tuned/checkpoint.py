"""Checkpoints of a training: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_kd.errors import StoreError

# Raised when an older file could not be gone on with.
FORMAT = 1
_KEY = "recbole_kd"


@dataclass
class Progress:
    """Where a training is; everything but tensors.

    Attributes
    ----------
    fingerprint : str
        Digest of all that decides the training; a file of another one is refused.
    epoch, step : int
        Finished epochs, and finished steps of the epoch that runs.
    loss : float
        Sum over the examples of this epoch so far.
    history : list of dict
    best_value, best_epoch : float, int
    seconds : dict
    done : bool
    """

    fingerprint: str
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "valid": 0.0})
    done: bool = False


def save(path: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write beside the target and rename.

    Raises
    ------
    StoreError
        The disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(3)}")
    said = {_KEY: json.dumps({"format": FORMAT, **asdict(progress)})}
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, temporary, metadata=said)
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(
            f"{path}: the checkpoint cannot be written ({error.strerror}); make room there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, fingerprint: str) -> tuple[Progress, dict[str, Tensor]] | None:
    """Read a checkpoint; ``None`` where there is none.

    Raises
    ------
    StoreError
        The file is damaged or of another training.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path}: damaged checkpoint ({error}); delete it to train anew") from error
    if said.pop("format", None) != FORMAT or said.get("fingerprint") != fingerprint:
        raise StoreError(f"{path}: checkpoint of another training; delete it to train anew")
    return Progress(**said), tensors
