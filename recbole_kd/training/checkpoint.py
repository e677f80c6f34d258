"""Checkpoints of a training: after an epoch, everything that the rest of it depends on, in one file.

Every part says by ``state_dict`` what it carries from step to step, as torch's optimisers do; here the states
are written and read. What a module carries beside its parameters and must not reach the student that is
served (streams, banks, stages) it gives in ``carried_state``.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

FORMAT = 1
"""Raised when older files could not be gone on with."""
_MAGIC = b"recbole_kd train"
_DIGEST = hashlib.sha256().digest_size
DAMAGE = (OSError, RuntimeError, ValueError, pickle.UnpicklingError)
"""What :func:`read` raises for a file that is damaged or holds something else."""
_SHARE = 20
"""A checkpoint waits at least so many times as long as the last one took to write."""


@runtime_checkable
class Carrier(Protocol):
    """A module with state that training needs and its state dict does not have."""

    def carried_state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`carried_state` gave."""
        ...


def carried(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the modules of a model carry, by their names."""
    return {name: m.carried_state() for name, m in model.named_modules() if isinstance(m, Carrier)}


def load_carried(model: nn.Module, states: Mapping[str, dict[str, Any]]) -> None:
    """Put back what :func:`carried` gave for a model built alike."""
    for name, module in model.named_modules():
        if isinstance(module, Carrier):
            module.load_carried_state(states[name])


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training is kept.

    Attributes
    ----------
    path : Path
        Of no other training; who shares a folder holds a lock.
    seconds : float
        At least so long between two checkpoints; 0 = never.
    fingerprint : mapping
        What else decides the numbers, beside the arguments of ``fit`` that have a digest; a checkpoint of
        another fingerprint is not used.
    made_by : callable
        What a resumed training reports of those who made its earlier parts (code, processor).
    say : callable
        Gets a line where something is to be told.
    on_resume : callable, optional
        Gets the number of epochs that were taken over.
    """

    path: Path
    seconds: float
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    made_by: Callable[[], dict[str, Any]] = dict
    say: Callable[[str], None] = lambda line: None
    on_resume: Callable[[int], None] | None = None

    def remove(self) -> None:
        """Delete the file and what a killed process left beside it."""
        self.path.unlink(missing_ok=True)
        _beside(self.path).unlink(missing_ok=True)


class Keeper:
    """Writes the checkpoint of one training, and finds the one that an interrupted process left.

    Parameters
    ----------
    checkpoint : Checkpoint
    fingerprint : mapping
        Of the training.
    """

    def __init__(self, checkpoint: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
        self._checkpoint = checkpoint
        own = {"format": FORMAT, "torch": str(torch.__version__)}
        self._fingerprint = {**own, **checkpoint.fingerprint, **fingerprint}
        self._made_by: dict[str, Any] | None = None
        self._due = time.monotonic() + checkpoint.seconds
        self._failed = False

    def found(self) -> dict[str, Any] | None:
        """State and maker of an interrupted training like this one: ``{"training": ..., "made_by": ...}``."""
        path = self._checkpoint.path
        if not path.is_file():
            return None
        try:
            content = read(path)
            there = dict(content["fingerprint"])
        except (*DAMAGE, KeyError, TypeError) as error:
            self.refuse(f"is damaged ({(str(error) or 'empty').splitlines()[0]})")
            return None
        for name in {**self._fingerprint, **there}:
            then, now = there.get(name), self._fingerprint.get(name)
            if then != now:
                self.refuse(f"is of another training ({name} {then}, now {now})")
                return None
        return content

    def refuse(self, why: str) -> None:
        """Say that the file found is not used."""
        self._checkpoint.say(f"checkpoint {self._checkpoint.path.name} {why}; training starts anew")

    def resumed(self, epoch: int) -> None:
        """Say that the training goes on after ``epoch``."""
        self._checkpoint.say(f"resumed at epoch {epoch}")
        if self._checkpoint.on_resume:
            self._checkpoint.on_resume(epoch)

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint if one is due; a disk that refuses it does not end the training."""
        begin = time.monotonic()
        if begin < self._due:
            return
        if self._made_by is None:
            self._made_by = self._checkpoint.made_by()
        content = {"fingerprint": self._fingerprint, "made_by": self._made_by, "training": state()}
        try:
            write(self._checkpoint.path, content)
        except (OSError, RuntimeError) as error:
            if not self._failed:
                self._checkpoint.say(f"no checkpoint could be written ({str(error).splitlines()[0]})")
            self._failed = True
        end = time.monotonic()
        self._due = end + max(self._checkpoint.seconds, _SHARE * (end - begin))


class _Hashed:
    """File that is written from here on, and the hash of what was."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return int(self._file.write(content))

    def flush(self) -> None:
        self._file.flush()


def write(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all: a name beside, flush to disk, rename.

    torch's format finds a file that was cut but no flipped bit; hence a hash before it.
    """
    temporary = _beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(_MAGIC + bytes(_DIGEST))
            hashed = _Hashed(file)
            torch.save(content, hashed)  # type: ignore[arg-type]
            file.seek(len(_MAGIC))
            file.write(hashed.sha256.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Read what :func:`write` wrote; nothing but tensors and plain values is ever built from the file.

    Raises
    ------
    one of DAMAGE
        It is damaged, or holds something else.
    """
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + _DIGEST)
        sha256 = hashlib.sha256()
        while block := file.read(1 << 20):
            sha256.update(block)
        if head != _MAGIC + sha256.digest():
            raise ValueError("its content is not what was written")
        file.seek(len(head))
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def _beside(path: Path) -> Path:
    """Temporary name: always the same, so that the next writer takes over what a killed one left."""
    return path.with_name(f".{path.name}.tmp")
