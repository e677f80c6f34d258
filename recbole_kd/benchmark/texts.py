"""Whether a dataset's item texts serve what reads them, said while planning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from recbole_kd.benchmark.inputs import ATTRIBUTES, ITEMS, USERS
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.errors import SpecError


def check(cell: CellSpec, variant: str, asked_at: object) -> None:
    """Refuse a cell that reads item texts where its dataset has none.

    Raises
    ------
    SpecError
    """
    if cell.dataset.text is not None:
        return
    read = [what for what, does in _readers(cell) if does]
    if read:
        raise SpecError(
            f"{asked_at}: variant '{variant}': {read[0]} made from item texts, and dataset "
            f"'{cell.dataset.name}' has text: null; name columns of its .item file in its YAML"
        )


def remarks(cells: Iterable[CellSpec]) -> list[str]:
    """What to mend before profiles are written, a line each; nothing of it is an error."""
    from profiles.items import without_categories
    from profiles.prompts import load_domain

    found: dict[str, None] = {}
    for cell in cells:
        if cell.dataset.text is None:
            continue
        for writer in _writers(cell):
            domain = load_domain(str(writer.get("domain") or cell.dataset.domain))
            file = cell.dataset.folder() / f"{cell.dataset.name}.item"
            found[without_categories(file, cell.dataset.text.fields, domain) or ""] = None
    return [line for line in found if line]


def _readers(cell: CellSpec) -> Iterator[tuple[str, bool]]:
    """What is made from item texts, and whether a cell reads it."""
    read = cell.inputs or {}
    yield "its teacher's profiles are", cell.teacher is not None and cell.teacher_file is None
    yield "the profiles that it reads are", USERS in read
    yield "the item vectors that it reads are", ITEMS in read
    yield "the item attributes that it reads are", ATTRIBUTES in read


def _writers(cell: CellSpec) -> Iterator[dict[str, Any]]:
    """Who writes profiles for a cell: for its teacher, for its system."""
    taught = cell.teacher if cell.teacher_file is None else None
    read = (cell.inputs or {}).get(USERS, {}).get("spec")
    yield from (spec["writer"] for spec in (taught, read) if spec is not None)
