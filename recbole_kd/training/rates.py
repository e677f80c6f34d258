"""How the learning rate changes from epoch to epoch. A course is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable

from recbole_kd.errors import SpecError
from recbole_kd.models.names import find

Course = Callable[[int, int], float]


def _constant(epoch: int, epochs: int) -> float:
    return 1.0


def _linear(epoch: int, epochs: int) -> float:
    """Linear decay (BERT4Rec, Sun et al., CIKM 2019, section 4.2), by the epoch: 1, 1 - 1/n, ..., 1/n."""
    return 1 - (epoch - 1) / epochs


CONSTANT = "constant"

COURSES: dict[str, Course] = {CONSTANT: _constant, "linear": _linear}
"""name -> share of ``learning_rate`` in an epoch (from 1) of at most ``epochs``."""


def known(name: str) -> str:
    """Return ``name`` if it is a course (a validator of pydantic).

    Raises
    ------
    ValueError
    """
    try:
        find(COURSES, name, "train.learning_rate_schedule")
    except SpecError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return name
