"""``overrides`` of an experiment: what their ``where`` may name, and those that apply to a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recbole_kd.benchmark import prefix, properties
from recbole_kd.benchmark.marked_yaml import MarkedDict, plain
from recbole_kd.benchmark.spec import ExperimentSpec
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError


def check(spec: ExperimentSpec, data: MarkedDict, variants: Iterable[str] | None) -> None:
    """Refuse an override for a name that nothing has: it would be without effect and say nothing.

    A dataset or backbone needs to be known, not listed: parts of a study share overrides.

    Parameters
    ----------
    variants : iterable of str or None
        Names of all variants, points of grids and controls; None = a variant may be unknown.

    Raises
    ------
    SpecError
    """
    known: dict[str, set[str]] = {
        "dataset": {*properties.names("dataset"), *spec.datasets},
        "backbone": {*_backbones(), *spec.backbones},
    }
    if variants is not None:
        known["variant"] = set(variants)
    for over in data.get("overrides") or []:
        where = over["where"]
        for key, value in where.items():
            if value is not None and key in known and value not in known[key]:
                hint = did_you_mean(value, known[key])
                raise SpecError(f"{where.where(key)}: overrides: where: no {key} '{value}'{hint}")


def of_cell(data: MarkedDict, dataset: str, backbone: str, lineage: Sequence[str]) -> list[MarkedDict]:
    """Those that apply to a cell, in the order in which they are laid on.

    Parameters
    ----------
    lineage : sequence of str
        Names of the variant from the one in the YAML to its own: what is for the whole of a grid is for
        each of its points and for their controls, and what names a point or a control comes last.
    """
    have = {"dataset": dataset, "backbone": backbone}
    found = [
        over
        for over in data.get("overrides") or []
        if all(over["where"].get(key) in (None, value) for key, value in have.items())
        and over["where"].get("variant") in (None, *lineage)
    ]
    return sorted(found, key=lambda over: _depth(over, lineage))


def of_variant(data: MarkedDict, lineage: Sequence[str]) -> list[dict[str, Any]]:
    """What overrides say about a variant by name; equal for variants that they do not tell apart."""
    named = [over for over in data.get("overrides") or [] if over["where"].get("variant") in lineage]
    ordered = sorted(named, key=lambda over: _depth(over, lineage))
    return [plain({**over, "where": over["where"].without("variant")}) for over in ordered]


def _depth(over: MarkedDict, lineage: Sequence[str]) -> int:
    """Place in the lineage; what names no variant stays in the file's order beside the variant's name."""
    name = over["where"].get("variant")
    return 0 if name is None else lineage.index(name)


def _backbones() -> set[str]:
    """Names that ``backbones`` can list; the distilled form of a model is not one."""
    ours, theirs = set(properties.names("model")), prefix.available()
    distilled = {name for name in ours if name.removesuffix("KD") in ours - {name}}
    return (ours - distilled) | set(theirs) | {prefix.MARK + name for name in theirs}
