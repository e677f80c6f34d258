"""What the teachers of an experiment still have to ask of a language model, counted before they are built.

The counting itself is that of ``run_benchmark.py profiles plan`` (``profiles.plan.plan_profiles``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from recbole_kd.benchmark import machine, rooms
from recbole_kd.benchmark.artefacts import read_split, split_key
from recbole_kd.benchmark.inputs import as_taught
from recbole_kd.benchmark.plan import EXISTS, CellState, Plan
from recbole_kd.benchmark.spec import CellSpec, teacher_content
from recbole_kd.strict import digest

if TYPE_CHECKING:
    from profiles.plan import Plan as ProfilePlan
    from profiles.spec import TeacherSpec
    from profiles.store import Call, Store, Writer
    from recbole_kd.data.types import Split

# Local weights run on this machine; a price per token belongs to endpoints.
_FREE = ("local",)


@dataclass(frozen=True)
class TeacherCost:
    """LLM cost of texts that one or more variants share.

    Attributes
    ----------
    dataset : str
    variants : tuple of str
    model : str or None
        ``None`` where no language model writes.
    calls, prompt_tokens, completion_tokens : int or None
        Still to be made; tokens of answers of likely length. ``None`` when they cannot be counted.
    usd, usd_at_most : float or None
        US dollars; ``None`` without a price.
    note : str
        Why it is nothing, or what is not known.
    """

    dataset: str
    variants: tuple[str, ...]
    model: str | None
    calls: int | None = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    usd: float | None = 0.0
    usd_at_most: float | None = 0.0
    note: str = ""


def teacher_costs(plan: Plan, results: Path) -> list[TeacherCost]:
    """LLM cost of every teacher of a plan; asks no model and writes nothing into ``results``.

    Teachers that share their texts (a placebo and its base) are counted once. Cells that exist need
    no teacher any more.
    """
    groups: dict[str, list[CellState]] = {}
    for state in plan.states:
        for taught in _taught(state):
            groups.setdefault(_texts_key(taught.planned.spec), []).append(taught)
    return [_cost(states, results) for states in groups.values()]


def _taught(state: CellState) -> Iterator[CellState]:
    """The cell once for its teacher, once for the profiles that its system reads when it serves."""
    cell = state.planned.spec
    if cell.teacher is not None:
        yield state
    if cell.inputs is not None and "users" in cell.inputs:
        planned = state.planned.model_copy(update={"spec": as_taught(cell)})
        yield replace(state, planned=planned)


def total_line(costs: Iterable[TeacherCost]) -> str:
    """One line over all teachers."""
    listed = list(costs)
    unknown = sum(c.calls is None for c in listed)
    calls = sum(c.calls or 0 for c in listed)
    tokens = sum((c.prompt_tokens or 0) + (c.completion_tokens or 0) for c in listed)
    unpriced = sum(c.usd is None and c.calls is not None for c in listed)
    money = f"{sum(c.usd or 0.0 for c in listed):,.2f} USD"
    line = f"LLM cost: {calls:,} calls, {tokens:,} tokens, {money}"
    line += f", and {unpriced} without a known price" if unpriced else ""
    return line + (f", and {unknown} that cannot be counted" if unknown else "")


def _texts_key(cell: CellSpec) -> str:
    """Equal for teachers whose texts are the same texts."""
    content = teacher_content(cell.teacher or {})
    wrote = {name: content.get(name) for name in ("writer", "as_of", "refresh")}
    if "writer" not in content:
        wrote = {"file": cell.teacher_file}
    dataset = cell.dataset
    read = [split_key(cell), dataset.domain, cell.dataset_source.get("item")]
    text = None if dataset.text is None else dataset.text.canonical()
    return digest([wrote, read, text])


def _cost(states: list[CellState], results: Path) -> TeacherCost:
    from profiles.spec import TeacherSpec

    cell = states[0].planned.spec
    variants = tuple(dict.fromkeys(s.planned.label.variant for s in states))
    none = TeacherCost(states[0].planned.label.dataset, variants, None)
    if cell.teacher_file is not None:
        return replace(none, note="an embedding file")
    spec = TeacherSpec.model_validate(cell.teacher)
    if not spec.uses_llm:
        return replace(none, note="no language model")
    none = replace(none, model=Path(spec.writer.model or "?").name)
    todo = list({s.cell: s.planned.spec for s in states if s.status != EXISTS}.values())
    if not todo:
        return replace(none, note="its cells exist")
    try:
        return _count(none, todo, results)
    except Exception as error:
        # A plan must come out whatever a teacher lacks; building it will say the same as an error.
        reason = machine.redact(" ".join(str(error).split()) or type(error).__name__)
        note = f"unknown: {reason[:160]}"
        return TeacherCost(none.dataset, variants, none.model, None, None, None, None, None, note)


def _count(none: TeacherCost, cells: list[CellSpec], results: Path) -> TeacherCost:
    from recbole_kd.data.load import load_item_texts

    split = planned_split(results, cells[0])
    texts = load_item_texts(cells[0].dataset)
    folder = rooms.profiles_folder(results)
    if all(_is_built(folder, cell, split, texts) for cell in cells):
        return replace(none, note="its vectors exist")
    found, note = _planned(folder, cells[0], split, texts)
    if not found.calls:
        return replace(none, note="its texts exist or ship with the code")
    batch = (cells[0].teacher or {})["writer"]["backend"] == "batch-file"
    free = (cells[0].teacher or {})["writer"]["backend"] in _FREE
    usd, most = found.likely_usd, found.usd
    if batch:
        usd = most = found.batch_usd
    if free:
        usd, most = 0.0, 0.0
        note.append("runs on this machine")
    elif usd is None:
        note.append(f"no price known for {none.model}")
    else:
        note.append(f"prices of {found.prices_dated}, at most {most:,.2f} USD")
    if found.stored:
        note.append(f"{found.stored} of {found.users} users have their texts")
    return replace(
        none,
        calls=found.calls,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.likely_completion_tokens,
        usd=usd,
        usd_at_most=most,
        note="; ".join(note),
    )


def planned_split(results: Path, cell: CellSpec) -> Split:
    """The stored split, or a new one that is not stored (a plan changes nothing)."""
    from recbole_kd.data.load import load_dataset
    from recbole_kd.data.split import make_split

    path = results / "cache" / "splits" / f"{split_key(cell)}.npz"
    return read_split(path) if path.is_file() else make_split(load_dataset(cell.dataset), cell.dataset.split)


def _is_built(folder: Path, cell: CellSpec, split: Split, texts: dict[str, dict[str, str]]) -> bool:
    """Whether the embedding file of a teacher, or that of a placebo's base, exists."""
    from profiles.build import label_of, teacher_digest
    from profiles.spec import TeacherSpec

    spec = TeacherSpec.model_validate(cell.teacher)
    forms = [spec, spec.model_copy(update={"placebo": None})]
    names = (f"{label_of(s)}-{teacher_digest(s, split, texts, cell.dataset.domain)}.parquet" for s in forms)
    return any((folder / name).is_file() for name in names)


def _planned(
    folder: Path, cell: CellSpec, split: Split, texts: dict[str, dict[str, str]]
) -> tuple[ProfilePlan, list[str]]:
    """Count with the tokenizer that the profile names, else with four characters to a token."""
    from profiles.build import histories_of, make_author
    from profiles.plan import plan_profiles
    from profiles.spec import TeacherSpec

    spec = TeacherSpec.model_validate(cell.teacher)
    domain = cell.dataset.domain
    histories = histories_of(spec, split, texts, domain)
    spec, note = _countable(spec)
    author = make_author(spec, split, texts, domain, histories)
    with _texts(folder, split.dataset.name, author.writer) as store:
        found = plan_profiles(author, histories, cast("Store", store))
    if found.calls and not found.exact and not note:
        note.append("tokens at four characters each")
    return found, note


def _countable(spec: TeacherSpec) -> tuple[TeacherSpec, list[str]]:
    api = spec.writer.api
    if api is None or api.tokenizer is None:
        return spec, []
    from profiles.llm.openai_api import load_tokenizer

    try:
        load_tokenizer(api.tokenizer)
    except Exception:
        plain = spec.writer.model_copy(update={"api": api.model_copy(update={"tokenizer": None})})
        note = f"tokenizer '{api.tokenizer}' cannot be loaded, tokens at four characters each"
        return spec.model_copy(update={"writer": plain}), [note]
    return spec, []


class _Texts:
    """Stores read as one; what ``plan_profiles`` asks of a store."""

    def __init__(self, stores: list[Store]) -> None:
        self._stores = stores

    def calls(self, writer: Writer, messages: Iterable[str]) -> dict[str, Call]:
        """Answered calls among ``messages``, whichever store has them."""
        asked = list(messages)
        found: dict[str, Call] = {}
        for store in self._stores:
            found |= store.calls(writer, asked)
        return found

    def measured(self, writer: Writer) -> tuple[int, int, float]:
        """Calls, answer tokens and seconds of the store with most calls of this writer."""
        return max(store.measured(writer) for store in self._stores)


@contextmanager
def _texts(folder: Path, dataset: str, writer: Writer) -> Iterator[_Texts]:
    """The results folder's own texts and those that ship, laid together without writing the first."""
    from profiles.job import STORE
    from profiles.store import Store
    from profiles.transfer import import_shipped

    with ExitStack() as stack:
        shipped = stack.enter_context(tempfile.TemporaryDirectory())
        stores = [stack.enter_context(Store(Path(shipped) / STORE))]
        import_shipped(stores[0], dataset, writer)
        if (folder / STORE).is_file():
            stores.append(stack.enter_context(Store(folder / STORE)))
        yield _Texts(stores)
