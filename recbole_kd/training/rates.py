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


def _warm_linear(epoch: int, epochs: int) -> float:
    """Up over the first tenth of the epochs, then down to nothing (BERT, Devlin et al., NAACL 2019, A.2).

    By the epoch: 1/w, ..., 1, then 1 - 1/r, ..., 1/r, with w epochs upwards and r - 1 downwards.
    """
    warm = max(1, round(epochs / 10))
    return epoch / warm if epoch <= warm else (epochs - epoch + 1) / (epochs - warm + 1)


CONSTANT = "constant"

COURSES: dict[str, Course] = {CONSTANT: _constant, "linear": _linear, "warm-linear": _warm_linear}
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
