"""Where cells run: in this process, on a local Dask cluster, or on a running one."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from recbole_kd.benchmark.executor import BUSY, FAILED, THREAD_VARIABLES, CellTask, Outcome, run_cell
from recbole_kd.benchmark.workers import check_workers
from recbole_kd.errors import UserError

if TYPE_CHECKING:
    from recbole_kd.benchmark.slurm import SlurmSpec

CellFunction = Callable[[CellTask], Outcome]
Outcomes = Generator[Outcome, None, None]
# Seconds between two looks at a cell that another driver is working on.
_BUSY_PAUSE = 1.0
# Seconds between two looks at tasks that are not ready.
_LATE_PAUSE = 0.2
# How often a worker may die under the same cell before that cell is called failed.
_ALLOWED_DEATHS = 3
# Added to the turn of a cell that another driver is working on: everything else comes first.
_BEHIND = 1_000_000


class Late(Protocol):
    """Tasks that are not ready when a run begins.

    Attributes
    ----------
    count : int
        How many there will be.
    taken : bool
        They have been handed over.
    """

    count: int
    taken: bool

    def ready(self) -> bool:
        """Whether :meth:`take` returns, or raises, without waiting."""
        ...

    def take(self) -> Sequence[CellTask]:
        """Hand them over, once; waits for them."""
        ...


class Engine(Protocol):
    """Runs tasks and yields what became of each, in the order in which they end.

    Attributes
    ----------
    workers : int
        Cells at a time.
    remote : bool
        It runs already and belongs to somebody else: how many workers it has is known once it is entered.
    overlaps : bool
        Cells may run while this machine is still building files for others.
    """

    workers: int
    remote: bool
    overlaps: bool

    def __enter__(self) -> Engine:
        """Keep workers between several calls of ``run``."""
        ...

    def __exit__(self, *error: object) -> None:
        """Let the workers go."""
        ...

    def run(self, tasks: Sequence[CellTask], late: Late | None = None) -> Outcomes:
        """Run every task; ``busy`` outcomes have been tried again until they ended otherwise."""
        ...


class SerialEngine:
    """One cell after the other in this process (debugging, and the reference for tests)."""

    workers = 1
    remote = False
    overlaps = False

    def __init__(self, function: CellFunction = run_cell) -> None:
        self._function = function

    def __enter__(self) -> SerialEngine:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, tasks: Sequence[CellTask], late: Late | None = None) -> Outcomes:
        """See :class:`Engine`."""
        waiting = [*tasks, *(late.take() if late else ())]
        while waiting:
            busy = []
            for task in waiting:
                outcome = self._function(task)
                if outcome.status == BUSY:
                    busy.append(task)
                else:
                    yield outcome
            waiting = busy
            if waiting:
                time.sleep(_BUSY_PAUSE)


class DaskEngine:
    """Cells on Dask workers, one process and one torch thread per cell.

    Parameters
    ----------
    workers : int
        Size of the local cluster; ignored with ``scheduler``.
    scheduler : str or None
        Address of a running scheduler, e.g. ``tcp://10.0.0.1:8786``.
    gpus : sequence of str
        Values of ``CUDA_VISIBLE_DEVICES``, one worker each; empty = CPU workers.
    resources : dict
        Dask resources that a cell takes, e.g. ``{"GPU": 1}``.
    patience : str
        How long a running scheduler may take to answer.
    slurm : SlurmSpec or None
        Ask SLURM for workers.
    per_gpu : int
        Cells that share the GPU of a SLURM job.
    """

    def __init__(
        self,
        workers: int,
        *,
        scheduler: str | None = None,
        gpus: Sequence[str] = (),
        resources: dict[str, float] | None = None,
        function: CellFunction = run_cell,
        patience: str = "15s",
        slurm: SlurmSpec | None = None,
        per_gpu: int = 1,
    ) -> None:
        self.workers = len(gpus) or workers
        self.remote = scheduler is not None
        # A language model that writes profiles wants the whole of a GPU.
        self.overlaps = not gpus
        self._scheduler = scheduler
        self._gpus = list(gpus)
        self._resources = resources
        self._function = function
        self._patience = patience
        self._slurm, self._per_gpu = slurm, per_gpu
        self._kept: tuple[ExitStack, Any] | None = None

    def run(self, tasks: Sequence[CellTask], late: Late | None = None) -> Outcomes:
        """See :class:`Engine`."""
        if self._kept is not None:
            yield from self._drain(self._kept[1], tasks, late)
            return
        with ExitStack() as stack:
            count = len(tasks) + (late.count if late else 0)
            client = self._client(stack, min(self.workers, count))
            yield from self._drain(client, tasks, late)

    def __enter__(self) -> DaskEngine:
        stack = ExitStack()
        self._kept = (stack, self._client(stack, self.workers))
        return self

    def __exit__(self, *error: object) -> None:
        if self._kept is not None:
            self._kept[0].close()
            self._kept = None

    def _drain(self, client: Any, tasks: Sequence[CellTask], late: Late | None) -> Outcomes:
        from distributed import as_completed

        by_key: dict[str, CellTask] = {}

        def submit(task: CellTask, pause: float = 0.0) -> Any:
            key = f"cell-{task.cell}-{uuid.uuid4().hex}"
            by_key[key] = task
            return client.submit(
                _paused,
                self._function,
                task,
                pause,
                key=key,
                priority=-task.turn - (_BEHIND if pause else 0),
                pure=False,
                resources=self._resources,
            )

        stream = as_completed([submit(task) for task in tasks], loop=client.loop)
        for future in _ended(stream, late, submit):
            task = by_key.pop(future.key)
            outcome = _outcome(future, task)
            if outcome.status == BUSY:
                stream.add(submit(task, _BUSY_PAUSE))
            else:
                yield outcome
            future.release()

    def _client(self, stack: ExitStack, workers: int) -> Any:
        import dask
        from distributed import Client

        stack.enter_context(dask.config.set(_dask_settings()))
        _quiet_logs()
        if self._scheduler is not None:
            try:
                client = Client(self._scheduler, timeout=self._patience, set_as_default=False)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"--scheduler {self._scheduler}: no Dask scheduler answers there ({error})"
                ) from error
            stack.enter_context(client)
            self.workers = check_workers(client, self._scheduler, self._resources)
            return client
        if self._slurm is not None:
            from recbole_kd.benchmark.slurm import start_cluster

            cluster = stack.enter_context(start_cluster(self._slurm, workers, self._per_gpu))
        else:
            cluster = stack.enter_context(self._cluster(workers))
        return stack.enter_context(Client(cluster, set_as_default=False))

    def _cluster(self, workers: int) -> Any:
        from distributed import LocalCluster, Nanny, Scheduler, SpecCluster

        if not self._gpus:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            )
        nannies = {
            f"gpu-{i}": {
                "cls": Nanny,
                "options": {
                    "nthreads": 1,
                    "memory_limit": 0,
                    "resources": {"GPU": 1},
                    "env": {"CUDA_VISIBLE_DEVICES": gpu},
                },
            }
            for i, gpu in enumerate(self._gpus[:workers])
        }
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
        return SpecCluster(workers=nannies, scheduler=scheduler, silence_logs=logging.CRITICAL)


def _ended(stream: Any, late: Late | None, submit: Callable[[CellTask], Any]) -> Iterator[Any]:
    """Futures in the order in which they end; late tasks join them as soon as they are ready."""
    while late is not None and not late.taken:
        if stream.has_ready():
            yield next(stream)
        elif late.ready() or stream.is_empty():
            stream.update([submit(task) for task in late.take()])
        else:
            time.sleep(_LATE_PAUSE)
    yield from stream


def _paused(function: CellFunction, task: CellTask, pause: float) -> Outcome:
    time.sleep(pause)
    return function(task)


def _outcome(future: Any, task: CellTask) -> Outcome:
    """Result of a future; a task whose workers kept dying counts as failed."""
    error = future.exception()
    if error is None:
        result: Outcome = future.result()
        return result
    return Outcome(task.cell, FAILED, error=f"{type(error).__name__}: {error}", trace=str(error))


_KEEP_HEAP = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}
"""Dask's default (trim at 64 KiB) gives every tensor back to the kernel: measured, a training step takes
twice as long, in page faults."""


def _dask_settings() -> dict[str, Any]:
    threads = dict.fromkeys(THREAD_VARIABLES, 1)
    return {
        "distributed.nanny.pre-spawn-environ": {**threads, **_KEEP_HEAP},
        "distributed.scheduler.allowed-failures": _ALLOWED_DEATHS,
        # A cell may hold the interpreter for seconds; that is no reason to call its worker lost.
        "distributed.scheduler.worker-ttl": "10 minutes",
        "distributed.comm.timeouts.connect": "30s",
        "distributed.admin.tick.limit": "1h",
        # One cell at a time per worker: queueing more would fix the order too early.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.work-stealing": False,
    }


def _quiet_logs() -> None:
    for name in ("distributed", "tornado", "bokeh"):
        logging.getLogger(name).setLevel(logging.CRITICAL if not sys.flags.dev_mode else logging.WARNING)
