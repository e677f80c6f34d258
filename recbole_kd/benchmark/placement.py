"""Which engine runs the cells, and which device or GPU each of them gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recbole_kd.benchmark import machine
from recbole_kd.benchmark.engines import DaskEngine, Engine, SerialEngine
from recbole_kd.errors import UserError

Look = Callable[[], list[str]]


@dataclass(frozen=True)
class Where:
    """What the command line says about where cells run.

    Attributes
    ----------
    workers : int or None
        Cells at a time; 0 = in this process; ``None`` = one per core, or per GPU.
    scheduler : str or None
        Address of a running Dask scheduler.
    slurm : str or None
        A SLURM profile.
    device : str
        cpu, cuda, cuda:N or auto.
    per_gpu : int
        Cells that share one GPU.
    stack : bool
        Cells of one shape train at once in this process.
    """

    workers: int | None = None
    scheduler: str | None = None
    slurm: str | None = None
    device: str = "auto"
    per_gpu: int = 1
    stack: bool = False


def resolve_device(device: str) -> tuple[str, list[str]]:
    """Turn ``auto`` into ``cuda`` or ``cpu`` and look for the GPUs of this machine.

    Returns
    -------
    device : str
        As torch in this process takes it.
    gpus : list of str
        Names for ``CUDA_VISIBLE_DEVICES``; empty for ``cpu``.

    Raises
    ------
    UserError
        Another name than cpu, cuda, cuda:N and auto, or no such GPU.
    """
    _check_name(device)
    if device == "cpu":
        return device, []
    gpus = machine.visible_gpus()
    if device == "auto":
        return ("cuda", gpus) if gpus else ("cpu", [])
    if not gpus:
        raise UserError(
            f"--device {device}: this machine shows no GPU (nvidia-smi -L, CUDA_VISIBLE_DEVICES); "
            "use --device cpu"
        )
    if device == "cuda":
        return device, gpus
    number = int(device.removeprefix("cuda:"))
    if number >= len(gpus):
        raise UserError(f"--device {device}: this machine shows {len(gpus)} GPUs, the first is cuda:0")
    return device, [gpus[number]]


def _check_name(device: str) -> None:
    known = device in ("auto", "cpu", "cuda")
    if not known and not (device.startswith("cuda:") and device.removeprefix("cuda:").isdigit()):
        raise UserError(f"--device {device}: use cpu, cuda, cuda:N or auto")


def make_engine(where: Where) -> tuple[Engine, str]:
    """Engine, and the device that its cells name, for what the command line asks.

    Raises
    ------
    UserError
        The options exclude each other, or there is no such device.
    """
    if where.slurm is not None and where.scheduler is not None:
        raise UserError("--slurm and --scheduler: give one of them")
    if where.workers == 0 and (where.slurm or where.scheduler):
        raise UserError("--workers 0 runs the cells in this process; leave out --scheduler and --slurm")
    if where.stack and (where.slurm or where.scheduler or where.workers):
        raise UserError("--stack-seeds runs in this process; leave out --workers, --scheduler and --slurm")
    if where.slurm is not None:
        return _slurm_engine(where.slurm, where.device, where.per_gpu)
    if where.scheduler is not None:
        return _cluster_engine(where.scheduler, where.device, where.per_gpu)
    device, gpus = resolve_device(where.device)
    if where.stack:
        from recbole_kd.benchmark.stacking import StackedEngine

        return StackedEngine(), device
    if where.workers == 0:
        return SerialEngine(), device
    if not gpus:
        return DaskEngine(where.workers or machine.usable_cores()), device
    # A worker sees one GPU only, which is cuda:0 to it whatever its number here.
    return DaskEngine(1, gpus=places(gpus, where.workers, where.per_gpu)), "cuda"


def places(gpus: Sequence[str], workers: int | None, per_gpu: int) -> list[str]:
    """GPU of every worker: one after the other, so that the first cells spread over all GPUs.

    Parameters
    ----------
    workers : int or None
        At most so many; ``None`` = all places.
    per_gpu : int
        Cells that share one GPU.
    """
    room = len(gpus) * per_gpu
    if workers is not None and workers > room:
        raise UserError(
            f"--workers {workers}: {len(gpus)} GPUs take {room} cells at a time; "
            "raise --cells-per-gpu to share them"
        )
    return [gpus[i % len(gpus)] for i in range(room if workers is None else workers)]


def _share(device: str, per_gpu: int) -> dict[str, float] | None:
    """Dask resources of one cell."""
    return {"GPU": 1.0 / per_gpu} if device == "cuda" else None


def _cluster_engine(scheduler: str, device: str, per_gpu: int) -> tuple[Engine, str]:
    """Workers of a running cluster are told apart by their resources, not by this machine's GPUs."""
    _check_name(device)
    if device.startswith("cuda:"):
        raise UserError(
            f"--scheduler with --device {device}: the workers choose their GPU; use --device cuda"
        )
    device = "cpu" if device == "auto" else device
    return DaskEngine(1, scheduler=scheduler, resources=_share(device, per_gpu)), device


def _slurm_engine(slurm: str, device: str, per_gpu: int) -> tuple[Engine, str]:
    from recbole_kd.benchmark.slurm import load_slurm

    spec = load_slurm(slurm)
    _check_name(device)
    if device == "auto":
        device = "cuda" if spec.gpus else "cpu"
    if device.startswith("cuda:"):
        raise UserError(f"--slurm with --device {device}: SLURM chooses the GPU; use --device cuda")
    if (device == "cuda") != bool(spec.gpus):
        raise UserError(f"--slurm {slurm}: 'gpus: {spec.gpus}' does not fit --device {device}")
    engine = DaskEngine(
        spec.jobs * spec.cells(per_gpu), slurm=spec, resources=_share(device, per_gpu), per_gpu=per_gpu
    )
    return engine, device
