"""The end of the text is lost."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext
from profiles.spec import CorruptionSpec


def truncate(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Drop the last ``rate`` of the words; the first word stays."""
    words = text.split(" ")
    return " ".join(words[: max(1, len(words) - int(spec.rate * len(words) + 1e-9))])


CORRUPTION = Corruption("text", text=truncate)
