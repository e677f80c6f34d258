"""Arguments and options that several verbs have, each defined once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path("results")

ExperimentArg = Annotated[
    str, typer.Argument(help="An experiment YAML, or its name in properties/experiment.")
]
ResultsOpt = Annotated[Path, typer.Option("--results", help="Folder of all runs and tables.")]
OnlyOpt = Annotated[
    str | None, typer.Option("--only", help="Only these cells: 'backbone=SASRec & seed=1,2'.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures and the final table only.")]
WorkersOpt = Annotated[
    int | None,
    typer.Option(
        "--workers", "-j", min=0, help="Cells at a time; 0 = in this process. Default: one per core or GPU."
    ),
]
SchedulerOpt = Annotated[
    str | None, typer.Option("--scheduler", help="A running Dask scheduler, e.g. tcp://10.0.0.1:8786.")
]
DeviceOpt = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:N, or auto (cuda where there is one).")
]
SlurmOpt = Annotated[str | None, typer.Option("--slurm", help="A SLURM profile (properties/slurm).")]
PerGpuOpt = Annotated[int, typer.Option("--cells-per-gpu", min=1, help="Small cells that share one GPU.")]
StackOpt = Annotated[
    bool,
    typer.Option("--stack-seeds", help="Train plain cells that differ in seed or rate at once (for a GPU)."),
]
TrackerOpt = Annotated[
    list[str] | None, typer.Option("--tracker", help="tensorboard, mlflow or wandb; repeatable.")
]
TunedOpt = Annotated[bool, typer.Option("--tuned", help="With the best parameters that 'tune' found.")]

# Fields of `placement.Where`: option and default.
_PLACE: dict[str, tuple[Any, Any]] = {
    "workers": (WorkersOpt, None),
    "scheduler": (SchedulerOpt, None),
    "slurm": (SlurmOpt, None),
    "device": (DeviceOpt, "auto"),
    "per_gpu": (PerGpuOpt, 1),
}


def placed(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say where cells run; they reach it as its parameter ``where``.

    The signature that typer reads has the options in place of ``where``.
    """
    # `Where` is imported when a verb runs, so that --help stays quick.
    own = inspect.signature(verb, eval_str=True, locals={"Where": Any})
    shown: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != "where":
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
            for name, (option, default) in _PLACE.items()
        ]

    def call(**given: Any) -> None:
        from recbole_kd.benchmark.placement import Where

        where = Where(**{name: given.pop(name) for name in _PLACE})
        verb(**given, where=where)

    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return call
