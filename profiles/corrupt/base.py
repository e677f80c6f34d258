"""What a corruption is, and its random numbers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from profiles.lexicon import Attribute, Lexicon
    from profiles.prompts.domain import Domain
    from recbole_kd.data.profile_table import ProfileRows

T = TypeVar("T")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Dice:
    """Random numbers by name: the same seed, text and unit always give the same number."""

    def __init__(self, name: str) -> None:
        self._name = name

    def uniform(self, unit: object) -> float:
        """Return a number in [0, 1) for a unit."""
        raw = hashlib.sha256(f"{self._name}:{unit}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(raw[:8], "big") / 2**64

    def hits(self, unit: object, rate: float) -> bool:
        """Whether a unit is damaged at this rate."""
        return self.uniform(unit) < rate

    def choose(self, unit: object, options: Sequence[T]) -> T:
        """Pick one of ``options`` for a unit, whatever the rate."""
        return options[int(self.uniform(f"choice:{unit}") * len(options))]


@dataclass(frozen=True)
class TextContext:
    """What a text corruption may look at.

    Attributes
    ----------
    own : frozenset of Attribute
        What the user's history supports.
    lexicon : Lexicon
    domain : Domain
    texts : tuple of str
        All texts before this corruption.
    index : int
        Which of them is being damaged.
    """

    own: frozenset[Attribute]
    lexicon: Lexicon
    domain: Domain
    texts: tuple[str, ...]
    index: int

    def foreign(self, kind: str) -> list[Attribute]:
        """Attributes of a kind that the user does not have (all of the kind when they have every one).

        Never empty where the corruption says what it :attr:`~Corruption.needs`.
        """
        from profiles.lexicon import Attribute

        names = self.lexicon.makers if kind == "maker" else self.lexicon.categories
        every = [Attribute("maker" if kind == "maker" else "category", name) for name in names]
        return [a for a in every if a not in self.own] or every


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    Attributes
    ----------
    level : {"text", "embedding"}
    needs : tuple of str
        What items must name, one of these; empty: nothing.
    text : callable
        ``text(text, spec, dice, context) -> str``
    rows : callable
        ``rows(rows, spec) -> ProfileRows``
    """

    level: Literal["text", "embedding"]
    needs: tuple[Literal["categories", "maker"], ...] = ()
    text: Callable[[str, Any, Dice, TextContext], str] = lambda text, spec, dice, context: text
    rows: Callable[[ProfileRows, Any], ProfileRows] = lambda rows, spec: rows


def sentences(text: str) -> list[str]:
    """Cut a text into sentences."""
    return [part for part in _SENTENCE.split(text.strip()) if part]
