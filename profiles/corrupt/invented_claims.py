"""Claims about categories that the user does not have are added."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext, sentences
from profiles.lexicon import spoken
from profiles.spec import CorruptionSpec


def invent(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Add one false claim after a share ``rate`` of the sentences."""
    result = []
    for i, sentence in enumerate(sentences(text)):
        result.append(sentence)
        if dice.hits(i, spec.rate):
            claim = spoken(dice.choose(i, context.foreign("category")))
            result.append(f"They also like {claim} {context.domain.of_category} very much.")
    return " ".join(result)


CORRUPTION = Corruption("text", needs=("categories",), text=invent)
