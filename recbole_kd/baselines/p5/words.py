"""Text to tokens: of a pre-trained T5, or a small vocabulary of the prompts' own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Ids = list[int]
# Two digits at a time, as sentence pieces cut a number into few tokens; <CI7> is one token.
_PIECES = re.compile(r"<CI\d+>|\d{1,2}|[^\W\d_]+|[^\w\s]|_")
_NEW = re.compile(r"<CI\d+>")


class Words:
    """A vocabulary of its own, for weights that begin at random.

    Parameters
    ----------
    texts : iterable of str
        Everything that will ever be read but numbers, which are known.

    Attributes
    ----------
    pad, eos, size : int
    """

    pad, eos, _unknown = 0, 1, 2

    def __init__(self, texts: Iterable[str]) -> None:
        found = {piece for text in texts for piece in _PIECES.findall(text)}
        numbers = {str(i) for i in range(10)} | {f"{i:02}" for i in range(100)}
        self._ids = {piece: i for i, piece in enumerate(sorted(found | numbers), 3)}
        self.size = len(self._ids) + 3

    def pieces(self, word: str) -> Ids:
        """Tokens of one word (text without blanks)."""
        return [self._ids.get(piece, self._unknown) for piece in _PIECES.findall(word)]

    def adopt(self, model: Any) -> None:
        """Nothing: the model was made for this vocabulary."""


class PretrainedWords:
    """The tokenizer of pre-trained weights, with a token for each cluster."""

    def __init__(self, tokenizer: Any, texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        new = sorted({token for text in texts for token in _NEW.findall(text)}, key=lambda t: int(t[3:-1]))
        tokenizer.add_tokens(new)
        self.pad, self.eos = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
        self.size = len(tokenizer)

    def pieces(self, word: str) -> Ids:
        """Tokens of one word (text without blanks)."""
        return list(self._tokenizer(word, add_special_tokens=False)["input_ids"])

    def adopt(self, model: Any) -> None:
        """Give a model vectors for the new tokens."""
        if self.size > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(self.size)


def encode(words: Words | PretrainedWords, text: str) -> tuple[Ids, Ids]:
    """Tokens of a text with the end token, and the number (from 1) of the word of each."""
    ids: Ids = []
    places: Ids = []
    for place, word in enumerate(text.split(), 1):
        pieces = words.pieces(word)
        ids += pieces
        places += [place] * len(pieces)
    return [*ids, words.eos], [*places, 0]


def padded(rows: Sequence[Ids], fill: int) -> list[Ids]:
    """Rows of equal length."""
    length = max(len(row) for row in rows)
    return [[*row, *[fill] * (length - len(row))] for row in rows]
