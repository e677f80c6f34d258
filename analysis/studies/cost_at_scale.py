"""The study of costs: bills of a model whose every number is a line, and where systems break even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BASELINE, COLOURS, GREY, LIGHT, LINES, log_axis, new_figure, style
from analysis.scale.assumptions import PARAMETERS, Assumptions, read_assumptions
from analysis.scale.measured import with_measured
from analysis.scale.model import LOOPS, WRITERS, Bill, break_even, set_up, systems, teacher_cost
from analysis.scale.sensitivity import one_at_a_time
from analysis.studies.known import NOT_RUN, Outcome
from analysis.studies.page import StudyPage
from analysis.table import Cell, Column, Table
from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun

_WHERE = "study.settings"


def assumptions(run: StudyRun) -> Assumptions:
    """The lines of the YAML, with what this study measured."""
    given = read_assumptions(run.settings.get("assumptions"), f"{_WHERE}.assumptions")
    return with_measured(given, run.parts[0].results, f"{_WHERE}.assumptions")


def _users(run: StudyRun) -> list[float]:
    return [float(n) for n in run.settings["users"]]


def _reference(run: StudyRun) -> tuple[str, str]:
    """Routes whose break-even the sensitivity is about."""
    asked = run.settings["reference"]
    for name, known in (("writer", WRITERS), ("loop", LOOPS)):
        if asked.get(name) not in known:
            raise SpecError(
                f"{_WHERE}.reference.{name} '{asked.get(name)}': use one of {', '.join(map(repr, known))}"
            )
    return asked["writer"], asked["loop"]


def money(value: float) -> str:
    """Three significant digits with thousands marked; cents below 100."""
    if value == 0:
        return "0"
    if value < 0.01:
        return "<0.01"
    if value < 100:
        return f"{value:.2f}"
    digits = 10 ** max(int(np.floor(np.log10(value))) - 2, 0)
    return f"{round(value / digits) * digits:,}"


def rate(value: float) -> str:
    """Requests per user and day, three significant digits."""
    return "never" if np.isinf(value) else "always" if value == 0 else f"{value:.3g}"


def people(n: float) -> str:
    """``1e+08`` as ``1e8``."""
    return f"{n:.0e}".replace("e+0", "e").replace("e+", "e")


def cost_figure(run: StudyRun) -> Figure:
    """Monthly cost against users, both logarithmic, at the assumed requests per user and day.

    Returns
    -------
    matplotlib Figure
        One line per system; dashed where a language model serves.
    """
    v = assumptions(run).values()
    users = np.logspace(np.log10(min(_users(run))) - 1, np.log10(max(_users(run))), 60)
    with style():
        figure = new_figure(3.0)
        axes = figure.add_subplot()
        for name, bill in systems().items():
            y = [bill(v, n, v["requests"]).total for n in users]
            axes.plot(users, y, label=name, **looks()[name])
        log_axis(axes)
        log_axis(axes, "y")
        axes.set_xlabel(f"users ({v['requests']:g} request per user and day)")
        axes.set_ylabel("USD per month")
        _finish(figure, axes)
    return figure


def break_even_figure(run: StudyRun) -> Figure:
    """What a user costs per month beyond the plain student, against requests per user and day.

    Returns
    -------
    matplotlib Figure
        Level lines: distillation, for every writer. Rising lines: a language model in the loop. They cross
        at the break-even, which is dotted.
    """
    v = assumptions(run).values()
    users = _users(run)[len(_users(run)) // 2]
    requests = np.logspace(-3, 2, 120)
    with style():
        figure = new_figure(3.0)
        axes = figure.add_subplot()
        for writer in WRITERS:
            level, name = teacher_cost(v, users, writer) / users, f"distilled ({writer})"
            axes.axhline(level, lw=1.0, label=name, **looks()[name])
        for loop, cost in LOOPS.items():
            y, name = [cost(v, users, r) / users for r in requests], f"LLM per request ({loop})"
            axes.plot(requests, y, label=name, **looks()[name])
            for writer in WRITERS:
                at = break_even(v, users, writer, loop)
                if requests[0] < at < requests[-1]:
                    axes.axvline(at, color=GREY, lw=0.5, ls=":")
        log_axis(axes)
        log_axis(axes, "y")
        axes.set_xlabel(f"requests per user and day ({people(users)} users; dotted: break-even)")
        axes.set_ylabel("USD per user and month\nbeyond the plain student")
        _finish(figure, axes)
    return figure


def looks() -> dict[str, dict[str, Any]]:
    """Colour and line of every system, the same in all figures; broken where a language model serves."""
    plain, *others = systems()
    broken = iter(LINES[1:3] + LINES[4:])
    palette = [colour for colour in COLOURS if colour != BASELINE]
    found: dict[str, dict[str, Any]] = {plain: {"color": BASELINE, "ls": ":"}}
    for number, name in enumerate(others):
        line = next(broken) if name.startswith("LLM") else LINES[0]
        found[name] = {"color": palette[number % len(palette)], "ls": line}
    return found


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(color=LIGHT, lw=0.4)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=5.5, ncols=2)


def costs_table(run: StudyRun) -> Table:
    """Monthly bill of every system at every number of users."""
    v = assumptions(run).values()
    parts = [field.name for field in fields(Bill)]
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    frame: list[dict[str, Any]] = []
    for users in _users(run):
        groups.append(len(rows))
        for name, bill in systems().items():
            found = bill(v, users, v["requests"])
            spent = [getattr(found, part) for part in parts]
            first = [set_up(v, users, w) for w in WRITERS if name == f"distilled ({w})"]
            row = [Cell(people(users), sort=users), Cell(name)]
            row += [Cell(money(usd), sort=usd) for usd in (*spent, found.total)]
            row.append(Cell(money(first[0]), sort=first[0]) if first else Cell("\u2013"))
            rows.append(tuple(row))
            frame.append(
                {"users": users, "system": name, **dict(zip(parts, spent, strict=True)), "total": found.total}
                | {"first_profiles_once": first[0] if first else 0.0}
            )
    heads = [part.replace("_", " ").replace("llm", "LLM") for part in parts]
    return Table(
        name="costs",
        title="Cost per month in USD",
        caption=(
            f"{v['requests']:g} request per user and day. The first profile of everybody is spread over "
            f"{v['written_off']:g} months in 'writing'; 'first profiles' is that sum, once. A model per "
            "request reranks the candidates of a plain student, whose training and serving are part of its "
            "bill. Costs say nothing about quality: SmolLM2 on CPU is there because its rate was measured."
        ),
        columns=(
            Column("Users"),
            Column("System", "l"),
            *(Column(head) for head in heads),
            Column("total"),
            Column("first profiles"),
        ),
        rows=tuple(rows),
        groups=tuple(groups),
        frame=pd.DataFrame(frame),
    )


def break_even_table(run: StudyRun) -> Table:
    """Requests per user and day from which on distillation is cheaper."""
    v = assumptions(run).values()
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    frame: list[dict[str, Any]] = []
    for users in _users(run):
        groups.append(len(rows))
        for writer in WRITERS:
            extra = teacher_cost(v, users, writer)
            found = {loop: break_even(v, users, writer, loop) for loop in LOOPS}
            rows.append(
                (
                    Cell(people(users), sort=users),
                    Cell(writer),
                    Cell(f"{extra / users:.2g}", sort=extra / users),
                    *(Cell(rate(r), sort=r) for r in found.values()),
                )
            )
            frame += [
                {"users": users, "writer": writer, "loop": loop, "requests_per_user_day": r}
                for loop, r in found.items()
            ]
    return Table(
        name="break-even",
        title="Break-even in requests per user and day",
        caption=(
            "Above it the distilled student is cheaper than a language model that is asked at every request; "
            "'always': the GPUs that stand by cost more than distillation even without a request. "
            "Extra: USD per user and month that distillation adds to the plain student."
        ),
        columns=(
            Column("Users"),
            Column("Profiles by", "l"),
            Column("Extra"),
            *(Column(f"against {loop}") for loop in LOOPS),
        ),
        rows=tuple(rows),
        groups=tuple(groups),
        frame=pd.DataFrame(frame),
    )


def sensitivity_table(run: StudyRun) -> Table:
    """Which assumption moves the reference break-even."""
    given, (writer, loop) = assumptions(run), _reference(run)
    users = _users(run)[-1]
    moved = one_at_a_time(given, users, writer, loop)
    rows = [
        (
            Cell(m.name),
            Cell(PARAMETERS[m.name][0]),
            Cell(given.lines[m.name].basis),
            Cell(f"{m.low:,.4g} to {m.high:,.4g}"),
            Cell(rate(m.at_low), sort=m.at_low),
            Cell(rate(m.at_high), sort=m.at_high),
        )
        for m in moved
        if m.spread > 0
    ]
    return Table(
        name="sensitivity",
        title="What moves the break-even",
        caption=(
            f"Profiles by {writer}, model in the loop by {loop}, {people(users)} users; as assumed: "
            f"{rate(break_even(given.values(), users, writer, loop))}. One line at a time over its range. "
            "A price that both sides pay moves both. Lines with a range that are not here do not move it."
        ),
        columns=(
            Column("Assumption", "l"),
            Column("Unit", "l"),
            Column("Basis", "l"),
            Column("Range"),
            Column("at the low end"),
            Column("at the high end"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame([m.__dict__ for m in moved]),
    )


def assumptions_table(run: StudyRun) -> Table:
    """Every line, measured ones first."""
    given = assumptions(run)
    lines = sorted(given.lines.items(), key=lambda item: item[1].basis != "measured")
    split = sum(line.basis == "measured" for _, line in lines)
    rows = [
        (
            Cell(line.basis, bold=line.basis == "measured"),
            Cell(name),
            Cell(f"{line.value:,.5g}", sort=line.value),
            Cell(line.unit),
            Cell(PARAMETERS[name][1]),
            Cell(line.source),
        )
        for name, line in lines
    ]
    return Table(
        name="assumptions",
        title="Every number that the model starts from",
        caption=f"{split} measured, {len(rows) - split} assumed; prices are lists or guesses, not offers.",
        columns=(
            Column("Basis", "l"),
            Column("Name", "l"),
            Column("Value"),
            Column("Unit", "l"),
            Column("What", "l"),
            Column("Source", "l"),
        ),
        rows=tuple(rows),
        groups=(0, split),
        frame=pd.DataFrame([{"name": n} | line.model_dump(exclude={"read"}) for n, line in lines]),
    )


def answer(run: StudyRun) -> list[str]:
    """Three sentences: bills, break-even, what they rest on."""
    given, (writer, loop) = assumptions(run), _reference(run)
    v, counts = given.values(), _users(run)
    every = systems()
    bills = [
        " against ".join(
            money(every[name](v, users, v["requests"]).total)
            for name in (f"distilled ({writer})", f"LLM per request ({loop})", "plain student")
        )
        for users in counts
    ]
    at = [break_even(v, users, writer, loop) for users in counts]
    moved = [m for m in one_at_a_time(given, counts[-1], writer, loop) if m.spread > 0][:1]
    swing = "".join(
        f"; over its plausible range {m.name} alone moves it between {rate(min(m.at_low, m.at_high))} and "
        f"{rate(max(m.at_low, m.at_high))}"
        for m in moved
    )
    measured = sum(line.basis == "measured" for line in given.lines.values())
    return [
        f"With {', '.join(map(people, counts))} users and {v['requests']:g} request per user and day a "
        f"distilled student, a language model per request (both: {writer}) and a plain student cost "
        f"{'; '.join(bills)} USD per month.",
        f"The distilled student is cheaper from {rate(max(at))} requests per user and day on "
        f"({', '.join(map(rate, at))} with these numbers of users){swing}.",
        f"{measured} of {len(given.lines)} numbers were measured, the others are assumed, so this is "
        "arithmetic, not a result; and equal cost is not equal quality, which the other studies ask about.",
    ]


def serves_as_plain(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Named variants have the parameters of the baseline and need nothing else to serve."""
    checked = equal = 0
    for part in run.parts:
        for dataset, backbone, variant in part.results.methods():
            if variant not in of:
                continue
            base = part.results.cells(dataset, backbone, part.results.baseline)
            for seed, cell in part.results.cells(dataset, backbone, variant).items():
                if seed in base:
                    mine, plain = (part.results.manifests[c] for c in (cell, base[seed]))
                    checked += 1
                    equal += mine["n_parameters"] == plain["n_parameters"] and mine.get("serving_needs") in (
                        None,
                        "nothing",
                    )
    if not checked:
        return NOT_RUN
    found = f"equal parameters and nothing needed to serve in {equal} of {checked} runs"
    return Outcome(checked == equal, found)


PAGE = StudyPage(
    answer=answer,
    figures={"cost": cost_figure, "break-even": break_even_figure},
    tables={
        "costs": costs_table,
        "break-even": break_even_table,
        "sensitivity": sensitivity_table,
        "assumptions": assumptions_table,
    },
    known={"kd-needs-no-profile": serves_as_plain},
)
