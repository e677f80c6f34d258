"""What the rankers of an experiment still have to ask of a language model, counted before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_kd.benchmark import machine
from recbole_kd.benchmark.plan import EXISTS, CellState, Plan
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.benchmark.teacher_cost import TeacherCost, planned_split

if TYPE_CHECKING:
    from profiles.prompts.kind import Message
    from recbole_kd.baselines.llm.base import LLMRanker
    from recbole_kd.baselines.llm.candidates import CandidateSets
    from recbole_kd.data.types import Split

# So many messages are rendered and counted at most.
_SAMPLE = 200
# A line of an answer: order number, dot, line break.
_LINE = 4


def loop_costs(plan: Plan, results: Path) -> list[TeacherCost]:
    """Cost of every variant that re-ranks; asks no model and writes nothing into ``results``.

    Candidates that no retriever has made yet are stood in for by random items.
    """
    groups: dict[tuple[str, str], list[CellState]] = {}
    for state in plan.states:
        if state.planned.spec.ranker is not None and state.planned.spec.ranker["spec"]["llm"] is not None:
            label = state.planned.label
            groups.setdefault((label.dataset, label.variant), []).append(state)
    return [_cost(states, results) for states in groups.values()]


def _cost(states: list[CellState], results: Path) -> TeacherCost:
    label, ranker = states[0].planned.label, states[0].planned.spec.ranker
    assert ranker is not None
    model = Path(str(ranker["spec"]["llm"]["model"])).name
    none = TeacherCost(label.dataset, (label.variant,), model)
    todo = {s.cell: s.planned.spec for s in states if s.status != EXISTS}
    if not todo:
        return replace(none, note="its cells exist")
    try:
        found = [_count(none, cell, results) for cell in todo.values()]
    except Exception as error:
        # A plan must come out whatever a ranker lacks; running it will say the same as an error.
        reason = machine.redact(" ".join(str(error).split()) or type(error).__name__)
        return TeacherCost(
            label.dataset, (label.variant,), model, None, None, None, None, None, f"unknown: {reason[:160]}"
        )
    unpriced = any(cost.usd is None for cost in found)
    return replace(
        none,
        calls=sum(cost.calls or 0 for cost in found),
        prompt_tokens=sum(cost.prompt_tokens or 0 for cost in found),
        completion_tokens=sum(cost.completion_tokens or 0 for cost in found),
        usd=None if unpriced else sum(cost.usd or 0.0 for cost in found),
        usd_at_most=None if unpriced else sum(cost.usd_at_most or 0.0 for cost in found),
        note=found[0].note,
    )


def _count(none: TeacherCost, cell: CellSpec, results: Path) -> TeacherCost:
    from profiles.prices import load_prices
    from recbole_kd.benchmark.rerank import open_ranker

    assert cell.ranker is not None
    split = planned_split(results, cell)
    sets, known = _sets(results, cell, split)
    ranker = open_ranker(results, cell, split, sets, None, "cpu")
    llm = ranker.context.llm
    assert llm is not None
    asked = [ranker.messages(sets[part]) for part in cell.ranker["candidates"]["parts"]]
    listed = {m.digest: m for users in asked for messages in users or () for m in messages}
    if not listed:
        return replace(none, note="in the loop; scores on this machine, no answer is bought")
    stored = _stored(results, ranker, list(listed.values())) if known else 0
    calls = len(listed) - stored
    prompts = round(calls * _mean_tokens(ranker, list(listed.values())))
    titles = ranker.context.titles[1:]
    line = _LINE + sum(map(len, titles)) / max(len(titles), 1) / 4
    likely = round(calls * min(llm.decoding.max_new_tokens, line * cell.ranker["candidates"]["top"]))
    most = calls * llm.decoding.max_new_tokens
    notes = ["in the loop"] + ([] if known else ["candidates not retrieved yet"])
    usd: float | None
    highest: float | None
    if llm.backend == "local":
        usd, highest = 0.0, 0.0
        notes += ["runs on this machine", "tokens at four characters each"]
    else:
        table = load_prices()
        price = table.find(ranker.context.backend.model)
        usd = None if price is None else price.cost(prompts, likely)
        highest = None if price is None else price.cost(prompts, most)
        notes.append(f"no price known for {none.model}" if price is None else f"prices of {table.dated}")
        if highest is not None:
            notes.append(f"at most {highest:,.2f} USD")
    notes += [f"{stored} answers stored"] if stored else []
    return replace(
        none,
        calls=calls,
        prompt_tokens=prompts,
        completion_tokens=likely,
        usd=usd,
        usd_at_most=highest,
        note="; ".join(notes),
    )


def _sets(results: Path, cell: CellSpec, split: Split) -> tuple[dict[str, CandidateSets], bool]:
    """The candidate sets of a cell and True, or sets of random items for the same users and False."""
    from recbole_kd.baselines.llm.candidates import CandidateSets, read_sets, sampled_rows
    from recbole_kd.benchmark.rerank import candidate_file, candidates_spec
    from recbole_kd.ranking import Ranks

    assert cell.ranker is not None
    spec = candidates_spec(cell)
    path = candidate_file(results, cell.ranker["retriever"], spec, split)
    if path.is_file():
        return read_sets(path, split), True
    draw, found = np.random.default_rng(0), {}
    for name in ("valid", "test"):
        part = getattr(split, name)
        asked = part.take(sampled_rows(part, split.dataset.n_users, spec.max_users, spec.seed))
        top = min(spec.top, split.dataset.n_items - 1)
        items = draw.integers(1, split.dataset.n_items, (len(asked), top))
        slots = np.tile(np.arange(1.0, top + 1), (len(asked), 1))
        ones = np.ones(len(asked), np.float32)
        found[name] = CandidateSets(name, asked, items, slots, slots, Ranks(ones, ones))
    return found, False


def _mean_tokens(ranker: LLMRanker, messages: Sequence[Message]) -> float:
    """Tokens per message, on a sample; a local model is not loaded for it."""
    llm = ranker.context.llm
    assert llm is not None
    step = max(len(messages) // _SAMPLE, 1)
    sample = messages[::step]
    if llm.backend == "local":
        return sum(len(m.system) + len(m.user) + len(m.opening) for m in sample) / 4 / len(sample)
    return sum(ranker.context.backend.count_prompt_tokens(sample)) / len(sample)


def _stored(results: Path, ranker: LLMRanker, messages: Sequence[Message]) -> int:
    """How many of these have an answer in the store."""
    from profiles.store import Store
    from recbole_kd.baselines.llm.asking import writer_of
    from recbole_kd.benchmark.rerank import store_file

    if not store_file(results).is_file():
        return 0
    assert ranker.context.llm is not None
    with Store(store_file(results)) as store:
        writer = writer_of(ranker.context.backend, ranker.context.llm, "-")
        return len(store.calls(writer, [m.digest for m in messages]))
