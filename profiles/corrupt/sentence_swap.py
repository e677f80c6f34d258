"""Sentences are replaced by sentences about another user."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext, sentences
from profiles.spec import CorruptionSpec


def swap(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Replace a share ``rate`` of the sentences; all come from one other user."""
    others = len(context.texts) - 1
    if others < 1:
        return text
    step = 1 + dice.choose("other", range(others))
    donor = sentences(context.texts[(context.index + step) % len(context.texts)])
    own = sentences(text)
    return " ".join(
        dice.choose(i, donor) if donor and dice.hits(i, spec.rate) else sentence
        for i, sentence in enumerate(own)
    )


CORRUPTION = Corruption("text", text=swap)
