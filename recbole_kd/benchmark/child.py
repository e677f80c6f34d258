"""Work in a process of its own, which does not outlive the process that asked for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from recbole_kd.errors import StoreError

T = TypeVar("T")


def in_child(what: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function in a fresh process, so that its memory (a language model's) is given back.

    However this process ends, the other one ends with it: it would hold locks that the next run waits for.

    Parameters
    ----------
    what : str
        What the process does, for the error: "builds splits".
    function : callable
        Importable by name; arguments and result are pickled.

    Raises
    ------
    StoreError
        The process was killed. Whatever ``function`` raises is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise StoreError(f"the process that {what} was killed (out of memory?)") from error


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Standard output belongs to the driver (--json); what a builder prints goes beside it.
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # At once: everything is written atomically, and a generation would go on for minutes.
        os._exit(1)
