"""``--only 'model=SASRecKD & seed=1,2'``: choose cells of an experiment."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

_TERM = re.compile(r"\s*([A-Za-z_]+)\s*(!=|=)\s*(.+?)\s*")
# '[[]' is the pattern of a bracket, not the beginning of a name's own.
_BRACKETS = re.compile(r"\[\[\]|[\[\],]")
_VALUES: dict[str, Callable[[PlannedCell], str]] = {
    "dataset": lambda c: c.label.dataset,
    "backbone": lambda c: c.label.backbone,
    "variant": lambda c: c.label.variant,
    "seed": lambda c: str(c.label.seed),
    "model": lambda c: c.spec.student.model,
    "cell": lambda c: c.cell,
}


def parse_filter(text: str, part: str | None = None) -> Callable[[PlannedCell], bool]:
    """Turn a filter into a predicate.

    Parameters
    ----------
    text : str
        Terms joined by ``&``; each is ``key=value`` or ``key!=value``, value being one or several
        (joined by commas) names or shell patterns. Keys: dataset, backbone, variant, seed, model, cell.
    part : str, optional
        The part of a study that the cells belong to; there is a key ``part`` then.

    Raises
    ------
    SpecError
        Unknown key or a term of another form.

    Examples
    --------
    >>> keep = parse_filter("variant=kd-* & seed=1,2")
    """
    known = _VALUES if part is None else {**_VALUES, "part": lambda _: part}
    terms: list[tuple[str, bool, list[str]]] = []
    for term in text.split("&"):
        match = _TERM.fullmatch(term)
        if match is None:
            raise SpecError(
                f"--only: '{term.strip()}' is not key=value; example: 'backbone=SASRec & seed=1,2'"
            )
        key, operator, values = match.groups()
        if key not in known:
            raise SpecError(f"--only: unknown key '{key}'{did_you_mean(key, known)}")
        terms.append((key, operator == "=", _values(values)))

    def keep(cell: PlannedCell) -> bool:
        return all(
            any(_matches(known[key](cell), value) for value in values) == wanted
            for key, wanted, values in terms
        )

    return keep


def _values(text: str) -> list[str]:
    """Split at the commas that are not within brackets: ``kd[alpha=0.2,layer=1]`` is one name."""
    found, begin, depth = [], 0, 0
    for match in _BRACKETS.finditer(text):
        if match[0] in "[]":
            depth = max(0, depth + (1 if match[0] == "[" else -1))
        elif match[0] == "," and depth == 0:
            found.append(text[begin : match.start()])
            begin = match.end()
    return [value.strip() for value in (*found, text[begin:])]


def _matches(name: str, value: str) -> bool:
    """Whether a value is the name itself, brackets included, or a shell pattern for it."""
    return name == value or fnmatchcase(name, value)
