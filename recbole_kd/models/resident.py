"""Batches of several steps brought to the device in one copy, so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from recbole_kd.models.batch import Batch

_GRIDS = ("item_seq", "target", "position", "segment", "user", "length", "start", "history")


def on_device(batches: Iterable[Batch], device: str, steps: int) -> Iterator[Batch]:
    """Yield prepared batches from the device.

    Parameters
    ----------
    batches : Batch on the host, inputs and targets already chosen (``DistillationMixin.prepare``)
    device : str
    steps : int
        Batches that share a copy; bounds what lies on the device.

    Yields
    ------
    Batch
        With ``at``, the positions of the targets, and ``host_user``, so that nobody has to ask the device
        how many there are.
    """
    stream = iter(batches)
    while group := tuple(islice(stream, steps)):
        yield from _moved(group, device)


def _moved(group: tuple[Batch, ...], device: str) -> Iterator[Batch]:
    parts: list[Tensor] = []
    for batch in group:
        parts += [getattr(batch, name) for name in _GRIDS]
        parts.append((batch.target > 0).flatten().nonzero().squeeze(1))
    buffer = torch.cat([p.flatten() for p in parts])
    if device.startswith("cuda"):
        buffer = buffer.pin_memory()
    pieces = buffer.to(device, non_blocking=True).split([p.numel() for p in parts])
    views = iter([piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)])
    for batch in group:
        moved = {name: next(views) for name in _GRIDS}
        yield replace(batch, **moved, at=next(views), host_user=batch.user)
