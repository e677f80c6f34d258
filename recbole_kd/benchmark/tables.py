"""Tables of the runner's own verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from recbole_kd.benchmark.console import duration
from recbole_kd.benchmark.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

    from recbole_kd.benchmark.teacher_cost import TeacherCost


def plan_table(plan: Plan, guessed: Mapping[str, float] | None = None) -> Table:
    """One row per dataset, backbone and variant: seeds, how many exist, time of the rest (~: guessed)."""
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for i, state in enumerate(plan.states):
        label = state.planned.label
        grouped.setdefault((label.dataset, label.backbone, label.variant), []).append(i)
    rows = []
    for (dataset, backbone, variant), places in grouped.items():
        states = [plan.states[i] for i in places]
        missing = [s for s in states if s.status != "exists"]
        estimate, sign = states[0].estimate, ""
        if estimate is None and guessed:
            estimate, sign = guessed.get(states[0].cell), "~"
        seeds = ", ".join(str(s.planned.label.seed) for s in states)
        time = "" if not missing else ("?" if estimate is None else sign + duration(estimate * len(missing)))
        corrupt = sum(s.status == "corrupt" for s in states)
        note = f"{corrupt} corrupt" if corrupt else ""
        rows.append(
            [dataset, backbone, variant, seeds, f"{len(states) - len(missing)}/{len(states)}", time, note]
        )
    return simple_table(["dataset", "backbone", "variant", "seeds", "exist", "time", ""], rows)


def cost_table(costs: Sequence[TeacherCost]) -> Table:
    """One row per text that has to be written, or need not: calls, tokens and money.

    Texts that cost no call and read alike (the parts of a study) share a row.
    """

    def said(value: float | None, form: str) -> str:
        return "?" if value is None else format(value, form)

    rows = [
        [
            cost.dataset,
            ", ".join(cost.variants),
            cost.model or "-",
            said(cost.calls, ",d"),
            said(cost.prompt_tokens, ",d"),
            said(cost.completion_tokens, ",d"),
            said(cost.usd, ",.2f"),
            cost.note,
        ]
        for cost in _without_repeats(costs)
    ]
    return simple_table(["dataset", "teacher of", "LLM", "calls", "prompt", "answer", "USD", ""], rows)


def _without_repeats(costs: Sequence[TeacherCost]) -> list[TeacherCost]:
    kept: list[TeacherCost] = []
    seen: set[tuple[object, ...]] = set()
    for cost in costs:
        key = (cost.dataset, cost.variants, cost.model, cost.calls, cost.note)
        if cost.calls != 0 or key not in seen:
            kept.append(cost)
        seen.add(key)
    return kept


def simple_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain aligned table; entries are text, never markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(entry) for entry in row))
    return table


def show(table: Table) -> None:
    """Print a table to standard output, wide enough not to cut text where output is piped."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
