"""Sentences are replaced by ones that are true of everybody."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext, sentences
from profiles.spec import CorruptionSpec

_LINES = (
    "This {d.person} enjoys a wide range of {d.items}.",
    "They value quality and like to discover something new.",
    "Their choices reflect both familiar favourites and occasional surprises.",
    "They appreciate {d.items} that suit their mood.",
    "Overall, their taste is balanced and open to suggestions.",
)


def replace_sentences(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Replace a share ``rate`` of the sentences."""
    return " ".join(
        dice.choose(i, _LINES).format(d=context.domain) if dice.hits(i, spec.rate) else sentence
        for i, sentence in enumerate(sentences(text))
    )


CORRUPTION = Corruption("text", text=replace_sentences)
