"""``--only 'model=SASRecKD & seed=1,2'``: choose cells of an experiment."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

_TERM = re.compile(r"\s*([A-Za-z_]+)\s*(!=|=)\s*(.+?)\s*")
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
        (joined by commas) shell patterns. Keys: dataset, backbone, variant, seed, model, cell.
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
        terms.append((key, operator == "=", [v.strip() for v in values.split(",")]))

    def keep(cell: PlannedCell) -> bool:
        return all(
            any(fnmatchcase(known[key](cell), value) for value in values) == wanted
            for key, wanted, values in terms
        )

    return keep
