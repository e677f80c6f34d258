"""Mentioned categories and makers are replaced by ones that the user does not have."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext
from profiles.lexicon import spoken
from profiles.spec import CorruptionSpec


def swap(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Replace a share ``rate`` of the mentions."""
    pieces, last = [], 0
    for i, mention in enumerate(context.lexicon.mentions(text)):
        if not dice.hits(i, spec.rate):
            continue
        new = spoken(dice.choose(i, context.foreign(mention.attribute.kind)))
        pieces += [text[last : mention.start], new]
        last = mention.end
    return "".join([*pieces, text[last:]])


CORRUPTION = Corruption("text", needs=("categories", "maker"), text=swap)
