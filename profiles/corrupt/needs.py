"""Whether the items of a dataset name what a corruption writes about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from profiles.corrupt import CORRUPTIONS
from profiles.items import Catalogue
from profiles.prompts import Domain, domain_for, load_domain
from profiles.spec import CorruptionSpec, TeacherSpec
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError


def check_fields(specs: Iterable[CorruptionSpec], where: str, fields: Sequence[str], domain: Domain) -> None:
    """Refuse corruptions that need a role which no text field of a dataset plays.

    Parameters
    ----------
    where : str
        Opens the message.
    fields : sequence of str
        The dataset's text columns.

    Raises
    ------
    SpecError
    """
    _check(specs, lambda role: any(name in fields for name in domain.roles[role]), where, fields, domain)


def check_items(
    spec: TeacherSpec, split: Split, item_texts: Mapping[str, Mapping[str, str]], domain: str | None = None
) -> None:
    """Refuse corruptions of ``spec`` that need what no train item names.

    Raises
    ------
    SpecError
    """
    fields = list(next(iter(item_texts.values()), {}))
    if not fields or not any(CORRUPTIONS[c.kind].needs for c in spec.corruption):
        return  # without texts nothing is written at all, and whoever would write says so
    chosen = spec.writer.domain or domain
    words = load_domain(chosen) if chosen else domain_for(fields)
    catalogue = Catalogue(item_texts, words)
    tokens = split.dataset.item_tokens[np.unique(split.train.items)]
    where = f"profile '{spec.name}', dataset {split.dataset.name}"

    def named(role: str) -> bool:
        return any(getattr(catalogue[str(token)], role) for token in tokens)

    _check(spec.corruption, named, where, fields, words)


def _check(
    specs: Iterable[CorruptionSpec],
    named: Callable[[str], bool],
    where: str,
    fields: Sequence[str],
    domain: Domain,
) -> None:
    for spec in specs:
        needs = CORRUPTIONS[spec.kind].needs
        if spec.rate == 0 or not needs or any(named(role) for role in needs):
            continue
        columns = " or ".join(name for role in needs for name in domain.roles[role])
        others = ", ".join(k for k in CORRUPTIONS if (c := CORRUPTIONS[k]).level == "text" and not c.needs)
        raise SpecError(
            f"{where}: corruption {spec.kind} writes the {' or '.join(needs)} of items into the texts, and "
            f"the text fields {', '.join(fields)} name none; add a column {columns} (domain {domain.name}) "
            f"of the .item file to text.fields, or use one of {others}"
        )
