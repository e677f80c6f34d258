"""Batches side by side, one thread each: how many cores a machine has changes no vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def in_lanes(run: Callable[[Batch], Result], batches: Iterable[Batch], device: str) -> Iterator[Result]:
    """Yield ``run(batch)`` for every batch, in order.

    A product that several threads share is split, and so rounded, by their number: the digest of the profiles
    would depend on it, and with it whether an interrupted training may go on. On a CPU there are as many
    lanes as torch may use threads, and each computes with one; elsewhere there is one lane.

    Parameters
    ----------
    run : callable
        Called in a thread of its own; what torch keeps per thread, such as the inference mode, is set inside.
    batches : iterable
    device : str
        As torch names it.
    """
    import torch

    threads = torch.get_num_threads()
    lanes = threads if device == "cpu" else 1
    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(run, batches)
    finally:
        torch.set_num_threads(threads)  # some of torch's libraries know one number for all threads
