"""What ``plan`` and ``study --plan`` print: cells, what exists, time, and the cost of language models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import typer

from recbole_kd.benchmark.console import duration
from recbole_kd.benchmark.guess import guesses, total
from recbole_kd.benchmark.loop_cost import loop_costs
from recbole_kd.benchmark.machine import usable_cores
from recbole_kd.benchmark.plan import Plan, make_plan, rows
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.benchmark.tables import cost_table, plan_table, show
from recbole_kd.benchmark.teacher_cost import teacher_costs, total_line
from recbole_kd.benchmark.texts import remarks


def print_plan(
    parts: Sequence[tuple[str, Sequence[PlannedCell]]], results: Path, workers: int | None, as_json: bool
) -> None:
    """Print the cells of every part under its title, then what all of them need.

    Parameters
    ----------
    parts : sequence of (title, cells)
        A title may be empty. A run that stands in several parts is counted once in the total.
    workers : int or None
        Cells at a time; None: one per core.
    as_json : bool
        One object for programs.
    """
    whole = make_plan([cell for _, cells in parts for cell in cells], results)
    at_once = workers or usable_cores()
    left, guessed = whole.seconds_left(at_once), guesses(whole)
    costs = [*teacher_costs(whole, results), *loop_costs(whole, results)]
    rough = total(whole, guessed, at_once)
    remarked = remarks(state.planned.spec for state in whole.states)
    if as_json:
        found = {"cells": rows(whole), "to_run": len(whole.todo()), "estimate_seconds": left}
        llm = [asdict(cost) for cost in costs]
        typer.echo(json.dumps({**found, "guess_seconds": rough, "llm": llm, "remarks": remarked}))
        return
    states = iter(whole.states)
    for title, cells in parts:
        if title:
            typer.echo(title)
        show(plan_table(Plan(list(islice(states, len(cells)))), guessed))
    if costs:
        show(cost_table(costs))
    typer.echo(total_line(costs))
    for line in remarked:
        typer.echo(f"note: {line}")
    todo = len(whole.todo())
    time = _known(left)
    if left is None and rough is not None:
        time = f"{_known(rough)}, a first guess from data and model size (~ in the table; a factor of 3 off)"
    tail = f"{todo} to run, time: {time}" if todo else "nothing to run"
    count = len(whole.states)
    runs = len({state.cell for state in whole.states})
    shared = f" ({runs} different runs)" if runs < count else ""
    typer.echo(f"{count} cells{shared}, {whole.count('exists')} exist, {tail}")


def _known(seconds: float | None) -> str:
    return "unknown until one cell of every kind has run" if seconds is None else f"about {duration(seconds)}"


__all__ = ["print_plan"]
