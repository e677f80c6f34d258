"""Work in a process of its own, which does not outlive the process that asked for it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from inspect import isgenerator
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from recbole_kd.errors import StoreError

T = TypeVar("T")


class Child(Generic[T]):
    """A function at work in a fresh process, so that its memory (a language model's) is given back.

    However this process ends, the other one ends with it: it would hold locks that the next run waits for.
    As a context it ends with the block, finished or not.

    Parameters
    ----------
    what : str
        What the process does, for the error: "builds splits".
    function : callable
        Importable by name; arguments, result and errors are pickled. What a generator function yields are
        several results, one after the other.
    results : int
        How many there are.
    relayed : bool
        What it prints goes line by line through ``sys.stderr`` of this process, which may be showing a
        progress bar; otherwise it writes to the terminal itself.
    """

    def __init__(
        self, what: str, function: Callable[..., Any], *args: Any, results: int = 1, relayed: bool = False
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._what = what
        self._answer, answering = context.Pipe(duplex=False)
        reading, printing = context.Pipe(duplex=False) if relayed else (None, None)
        self._process = context.Process(target=_serve, args=(answering, printing, function, args))
        self._to_come = results
        self._process.start()
        answering.close()  # so that the end of the process is the end of the pipe
        if reading is not None and printing is not None:
            printing.close()
            threading.Thread(target=_relay, args=(reading,), daemon=True).start()

    def done(self) -> bool:
        """Whether :meth:`result` returns, or raises, without waiting."""
        return self._answer.poll()

    def result(self) -> T:
        """What the function returned, or the next that it yielded; waits for it.

        Raises
        ------
        StoreError
            The process was killed. Whatever the function raised is raised here.
        """
        try:
            fine, answer = self._answer.recv()
        except EOFError:
            raise StoreError(f"the process that {self._what} was killed (out of memory?)") from None
        self._to_come -= 1
        if fine:
            result: T = answer
            return result
        self._to_come = 0
        error, trace = answer
        raise error from _InChild(trace)

    def __enter__(self) -> Child[T]:
        return self

    def __exit__(self, *error: object) -> None:
        if self._to_come:  # at work, or waiting for somebody to read its answer
            self._process.kill()  # everything is written atomically
        self._process.join()
        self._answer.close()


def in_child(what: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function in a :class:`Child` and wait for it.

    Raises
    ------
    StoreError
        The process was killed. Whatever ``function`` raises is raised here.
    """
    with Child[T](what, function, *args) as child:
        return child.result()


class _InChild(Exception):
    """Traceback of the other process, as the cause of an error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _serve(
    answering: Connection, printing: Connection | None, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if printing is not None:
        os.dup2(printing.fileno(), 2)
        printing.close()
    # Standard output belongs to the driver (--json); what a builder prints goes beside it.
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        made = function(*args)
        for result in made if isgenerator(made) else (made,):
            answering.send((True, result))
    except BaseException as error:
        answering.send((False, (_portable(error), traceback.format_exc())))


def _portable(error: BaseException) -> BaseException:
    """The error, or what it says where it does not survive pickling (its own ``__init__``, an open file)."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # made anew as unpickling makes it
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _relay(reading: Connection) -> None:
    """Print what the other process prints until it ends."""
    with os.fdopen(os.dup(reading.fileno()), errors="replace") as lines:
        reading.close()
        for line in lines:
            sys.stderr.write(line)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # At once: everything is written atomically, and a generation would go on for minutes.
        os._exit(1)
