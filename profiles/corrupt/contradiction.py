"""Sentences are contradicted by the sentence that follows."""

from __future__ import annotations

from profiles.corrupt.base import Corruption, Dice, TextContext, sentences
from profiles.lexicon import spoken
from profiles.spec import CorruptionSpec


def contradict(text: str, spec: CorruptionSpec, dice: Dice, context: TextContext) -> str:
    """Contradict a share ``rate`` of the sentences: what is claimed is disliked, the opposite is liked."""
    result = []
    for i, sentence in enumerate(sentences(text)):
        result.append(sentence)
        if not dice.hits(i, spec.rate):
            continue
        claimed = [spoken(m.attribute) for m in context.lexicon.mentions(sentence)]
        disliked = ", ".join(dict.fromkeys(claimed)) or "all of that"
        liked = spoken(dice.choose(i, context.foreign("category")))
        result.append(
            f"On the contrary, they dislike {disliked} and like {liked} {context.domain.of_category}."
        )
    return " ".join(result)


CORRUPTION = Corruption("text", needs=("categories",), text=contradict)
