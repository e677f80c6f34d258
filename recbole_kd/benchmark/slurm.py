"""Cells as SLURM jobs, through dask-jobqueue."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.executor import THREAD_VARIABLES
from recbole_kd.benchmark.validate import validated
from recbole_kd.errors import UserError
from recbole_kd.strict import Strict


class SlurmSpec(Strict):
    """``properties/slurm/*.yaml``."""

    jobs: int = Field(ge=1)
    queue: str | None
    account: str | None
    cores: int = Field(ge=1)
    memory: str
    walltime: str
    gpus: int = Field(ge=0, le=1, description="a cell uses one; ask for more jobs instead")
    directives: list[str]
    prologue: list[str]
    interface: str | None
    host: str | None
    logs: str | None

    def cells(self, per_gpu: int) -> int:
        """Cells that one job runs at a time: one per core, or those that share its GPU."""
        return per_gpu if self.gpus else self.cores


def load_slurm(name: str) -> SlurmSpec:
    """Read a SLURM profile: a file, or a name in ``properties/slurm``."""
    return validated(SlurmSpec, properties.load("slurm", name, "--slurm"), "slurm")


def start_cluster(spec: SlurmSpec, cells: int, per_gpu: int = 1) -> Any:
    """Start a Dask scheduler here and ask SLURM for workers; they come as the site lets them.

    Parameters
    ----------
    cells : int
        How many can run at a time; no more jobs than these need are asked for.
    per_gpu : int
        Cells that share the GPU of a job.

    Raises
    ------
    UserError
        dask-jobqueue or SLURM is not there.
    """
    import shutil

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise UserError("--slurm needs dask-jobqueue; install recbole-kd[distributed]") from error
    if shutil.which("sbatch") is None:
        raise UserError("--slurm: there is no 'sbatch' on this machine; run it where jobs are submitted")
    directives = [*spec.directives, *([f"--gres=gpu:{spec.gpus}"] if spec.gpus else [])]
    # Every worker process announces its share, so that one cell goes to each.
    resources = [f"--resources GPU={1.0 / per_gpu}"] if spec.gpus else []
    per_job = spec.cells(per_gpu)
    scheduler: dict[str, Any] = {"dashboard_address": ":0"}
    if spec.host is not None:
        scheduler["host"] = spec.host
    cluster = SLURMCluster(
        queue=spec.queue,
        account=spec.account,
        cores=max(spec.cores, per_job),
        job_cpu=spec.cores,
        processes=per_job,
        memory=spec.memory,
        walltime=spec.walltime,
        job_extra_directives=directives,
        job_script_prologue=[*(f"export {name}=1" for name in THREAD_VARIABLES), *spec.prologue],
        worker_extra_args=["--nthreads", "1", "--memory-limit", "0", *resources],
        interface=spec.interface,
        log_directory=None if spec.logs is None else str(Path(spec.logs).expanduser()),
        python=sys.executable,
        scheduler_options=scheduler,
    )
    jobs = min(spec.jobs, math.ceil(cells / per_job))
    # Not scale(): a job that ends (walltime, preemption, a lost node) is asked for again.
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return cluster
