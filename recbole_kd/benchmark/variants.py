"""Variants of an experiment: one for every point of a grid, and the controls that belong to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recbole_kd.benchmark import inputs, overrides, rooms
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge
from recbole_kd.benchmark.spec import ExperimentSpec, VariantSpec
from recbole_kd.benchmark.validate import did_you_mean, validated
from recbole_kd.errors import SpecError

PARTS = ("hparams", "train", "distill")


@dataclass(frozen=True)
class Variant:
    """A variant after its grid was expanded and the controls were added.

    Attributes
    ----------
    lineage : tuple of str
        Names from the variant in the YAML over the point of its grid to its own, for ``overrides``.
    """

    lineage: tuple[str, ...]
    spec: VariantSpec
    data: MarkedDict
    mark: Mark

    @property
    def name(self) -> str:
        """Name in labels and tables."""
        return self.lineage[-1]


def expanded(spec: ExperimentSpec, data: MarkedDict) -> list[Variant]:
    """Every variant of an experiment, one for each point of its grid, then the controls.

    Raises
    ------
    SpecError
    """
    return list(_with_controls(spec, list(_variants(spec, data)), data))


def _variants(spec: ExperimentSpec, data: MarkedDict) -> Iterator[Variant]:
    """Yield every variant, one for each point of its grid."""
    for name, variant in spec.variants.items():
        mark = data["variants"].where(name)
        raw = data["variants"][name]
        if unknown := [b for b in variant.backbones or [] if b not in spec.backbones]:
            hint = did_you_mean(unknown[0], spec.backbones)
            raise SpecError(f"{mark}: variant '{name}': '{unknown[0]}' is not among the backbones{hint}")
        if not variant.grid:
            yield Variant((name,), variant, raw, mark)
            continue
        paths = list(variant.grid)
        for values in itertools.product(*variant.grid.values()):
            point = raw
            for path, value in zip(paths, values, strict=True):
                point = _set(point, path, value, raw["grid"].where(path))
            tail = ",".join(f"{p.rsplit('.', 1)[-1]}={v}" for p, v in zip(paths, values, strict=True))
            yield Variant((name, f"{name}[{tail}]"), validated(VariantSpec, point), point, mark)


def _set(data: MarkedDict, path: str, value: Any, mark: Mark) -> MarkedDict:
    """Return ``data`` with the dotted ``path`` set."""
    head, _, rest = path.partition(".")
    allowed = (*PARTS, "teacher", "profile", "lists", "params", "inputs", "pretrain", "llm")
    if head not in allowed or (head != "teacher") != bool(rest):
        raise SpecError(
            f"{mark}: grid path '{path}' must be 'teacher' or begin with hparams., train., distill., "
            f"profile., lists., params., inputs., pretrain. or llm."
        )
    over = MarkedDict(mark)
    inner = over
    parts = path.split(".")
    for part in parts[:-1]:
        child = MarkedDict(mark)
        inner.put(part, child, mark)
        inner = child
    inner.put(parts[-1], value, mark)
    return merge(data, over)


def _with_controls(spec: ExperimentSpec, listed: list[Variant], data: MarkedDict) -> Iterator[Variant]:
    """Add the no-LLM and placebo controls of every teacher that is a language model, once each."""
    yield from listed
    if not spec.controls:
        return
    taken = {v.name for v in listed}
    have = {_content(v, data) for v in listed}
    for variant in listed:
        for name in spec.controls:
            added = rooms.control(name, variant.spec, data.where("controls"))
            if added is None:
                continue
            own = added.profile or added.teacher is None
            # The lineage of what it controls: overrides must reach both, or they cannot be compared.
            title = _untaken(variant.name, name, bool(own), taken)
            lineage = (*variant.lineage, title)
            control = Variant(lineage, added.model_copy(update={"grid": None}), variant.data, variant.mark)
            if _content(control, data) not in have:
                have.add(_content(control, data))
                taken.add(title)
                yield control


def _untaken(variant: str, control: str, own: bool, taken: set[str]) -> str:
    """Title of a control: of its variant where it is its ``own``, or where another has the common title."""
    title = f"{variant}-{control}"
    numbered = (f"{title}-{number}" for number in itertools.count(2))
    candidates = itertools.chain([] if own else [f"kd-{control}"], [title], numbered)
    return next(name for name in candidates if name not in taken)


def _content(variant: Variant, data: MarkedDict) -> str:
    """Equal for variants that differ in nothing but their name."""
    found = rooms.teacher(variant.spec, "generic", variant.mark)
    spec = variant.spec.canonical()
    for key in ("teacher", "profile", "grid"):
        spec.pop(key)
    if variant.spec.system is not None:
        spec["inputs"] = inputs.inputs_of(variant.spec, None, "generic", variant.mark)
    named = overrides.of_variant(data, variant.lineage)
    return repr((None if found is None else found.key(), spec, named))
