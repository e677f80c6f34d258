"""Are the workers of a running cluster fit for cells? Asked once, when a sweep connects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from recbole_kd.errors import UserError


def check_workers(client: Any, address: str, resources: Mapping[str, float] | None) -> int:
    """Refuse workers that would give other numbers or never take a cell.

    Workers that come later are not looked at; a manifest names the code that its cell ran.

    Parameters
    ----------
    client : distributed.Client
    address : str
        Of the scheduler, for messages.
    resources : mapping or None
        What every cell takes.

    Returns
    -------
    int
        Cells that can run at a time, at least 1.

    Raises
    ------
    UserError
        A worker lacks this package or runs another state of it, or no worker has the resources.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        _say(f"the scheduler at {address} has no workers yet; cells wait for them")
        return 1
    _check_code(client, address)
    fit = [w for w in workers.values() if _has(w.get("resources") or {}, resources or {})]
    if not fit:
        need = ",".join(f"{name}={amount:g}" for name, amount in (resources or {}).items())
        raise UserError(
            f"--scheduler {address}: none of its {len(workers)} workers has what a cell takes; "
            f"start them with --resources '{need}'"
        )
    several = sum(w["nthreads"] > 1 for w in fit)
    if several:
        _say(
            f"{several} workers have several threads; a process runs one cell at a time, so start workers "
            "with --nthreads 1 (and --nworkers for several on a machine)"
        )
    return len(fit)


def _has(have: Mapping[str, float], need: Mapping[str, float]) -> bool:
    return all(have.get(name, 0.0) >= amount for name, amount in need.items())


def _check_code(client: Any, address: str) -> None:
    from recbole_kd.benchmark import machine

    own = machine.code()["source"]
    for worker, answer in client.run(_source, on_error="return").items():
        if isinstance(answer, BaseException):
            raise UserError(
                f"--scheduler {address}: worker {worker} cannot import recbole_kd "
                f"({type(answer).__name__}: {answer}); install it there, or set PYTHONPATH"
            )
        if answer != own:
            raise UserError(
                f"--scheduler {address}: worker {worker} runs another state of recbole_kd (source {answer}, "
                f"here {own}); bring both to the same revision and start the worker again"
            )


def _source() -> str:
    """Digest of the package's code in this process."""
    from recbole_kd.benchmark import machine

    return str(machine.code()["source"])


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
