"""Whether a dataset's item texts serve what reads them, said while planning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recbole_kd.benchmark.inputs import ATTRIBUTES, ITEMS, USERS
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.errors import SpecError


def check(cell: CellSpec, variant: str, asked_at: object) -> None:
    """Refuse a cell that reads item texts where its dataset has none, or damages what they do not name.

    Raises
    ------
    SpecError
    """
    if cell.dataset.text is not None:
        _check_corruptions(cell, variant, asked_at)
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
        for teacher in _written(cell):
            domain = load_domain(str(teacher["writer"].get("domain") or cell.dataset.domain))
            found[without_categories(_file(cell), cell.dataset.text.fields, domain) or ""] = None
    return [line for line in found if line]


def _readers(cell: CellSpec) -> Iterator[tuple[str, bool]]:
    """What is made from item texts, and whether a cell reads it."""
    read = cell.inputs or {}
    yield "its teacher's profiles are", cell.teacher is not None and cell.teacher_file is None
    yield "the profiles that it reads are", USERS in read
    yield "the item vectors that it reads are", ITEMS in read
    yield "the item attributes that it reads are", ATTRIBUTES in read


def _check_corruptions(cell: CellSpec, variant: str, asked_at: object) -> None:
    """Refuse text corruptions about what no column of the item file is known to name."""
    from profiles.corrupt.needs import check_fields
    from profiles.prompts import load_domain
    from profiles.spec import CorruptionSpec

    assert cell.dataset.text is not None
    for teacher in _written(cell):
        if damages := [CorruptionSpec.model_validate(c) for c in teacher["corruption"]]:
            domain = load_domain(str(teacher["writer"].get("domain") or cell.dataset.domain))
            where = f"{asked_at}: variant '{variant}', {_file(cell)}"
            check_fields(damages, where, cell.dataset.text.fields, domain)


def _file(cell: CellSpec) -> Path:
    return cell.dataset.folder() / f"{cell.dataset.name}.item"


def _written(cell: CellSpec) -> Iterator[dict[str, Any]]:
    """Whose profiles are written for a cell: its teacher's, those that its system reads."""
    taught = cell.teacher if cell.teacher_file is None else None
    read = (cell.inputs or {}).get(USERS, {}).get("spec")
    yield from (spec for spec in (taught, read) if spec is not None)
