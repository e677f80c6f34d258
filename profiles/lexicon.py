"""Find the attributes that a text names: categories, makers, titles.

Used to damage claims (``profiles.corrupt``) and to check them (``profiles.audit``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from profiles.items import Catalogue
from profiles.prompts.kind import words
from profiles.yamlfile import load_mapping

AttributeKind = Literal["category", "maker", "title"]
_WORD = re.compile(r"[^\W_]+(?:[-'’&.][^\W_]+)*(?:'s\b)?")
_MAX_WORDS = 12


@dataclass(frozen=True)
class Attribute:
    """Something that a profile can claim; ``name`` as the catalogue writes it."""

    kind: AttributeKind
    name: str


@dataclass(frozen=True)
class Mention:
    """An attribute at characters ``start`` to ``end`` of a text."""

    attribute: Attribute
    start: int
    end: int


@lru_cache(maxsize=1)
def _aliases() -> dict[str, tuple[str, ...]]:
    raw = load_mapping(Path(__file__).parent / "aliases.yaml")
    return {str(name).lower(): tuple(map(str, other)) for name, other in raw.items()}


class Lexicon:
    """All attributes of the items that somebody has, and how texts may spell them.

    Parameters
    ----------
    catalogue : Catalogue
    items : iterable of str
        Item tokens that count (the train items).
    titles : bool
        Look for titles as well. A title must be written exactly; one of a single word only counts
        in quotation marks, since "Seven" and "Heat" are words, too.
    """

    def __init__(self, catalogue: Catalogue, items: Iterable[str], *, titles: bool = True) -> None:
        self.catalogue = catalogue
        self._loose: dict[tuple[str, ...], Attribute] = {}
        self._exact: dict[tuple[str, ...], Attribute] = {}
        categories: set[str] = set()
        makers: set[str] = set()
        for token in sorted(set(items)):
            item = catalogue[token]
            categories |= set(item.categories)
            makers |= {item.maker} if item.maker else set()
            if titles:
                self._exact.setdefault(_words(item.title), Attribute("title", item.title))
        self.categories, self.makers = tuple(sorted(categories)), tuple(sorted(makers))
        for maker in self.makers:
            self._loose[_words(maker.lower())] = Attribute("maker", maker)
        for category in self.categories:
            for form in _forms(category):
                self._loose[_words(form)] = Attribute("category", category)
        self._loose.pop((), None)
        self._exact.pop((), None)

    def mentions(self, text: str) -> list[Mention]:
        """Mentions in order, longest first at every place, without overlap."""
        found = list(_WORD.finditer(text))
        exact = [m.group().replace("’", "'") for m in found]
        loose = [word.lower() for word in exact]
        result, at = [], 0
        while at < len(found):
            step = 1
            for length in range(min(_MAX_WORDS, len(found) - at), 0, -1):
                hit = self._exact.get(tuple(exact[at : at + length]))
                if hit and length == 1 and not _quoted(text, found[at].start(), found[at].end()):
                    hit = None
                hit = hit or self._loose.get(tuple(loose[at : at + length]))
                if hit:
                    result.append(Mention(hit, found[at].start(), found[at + length - 1].end()))
                    step = length
                    break
            at += step
        return result

    def of_items(self, items: Iterable[str]) -> set[Attribute]:
        """Attributes that a history supports."""
        own: set[Attribute] = set()
        for token in items:
            item = self.catalogue[token]
            own |= {Attribute("category", name) for name in item.categories}
            own |= {Attribute("maker", item.maker)} if item.maker else set()
            own.add(Attribute("title", item.title))
        return own


def spoken(attribute: Attribute) -> str:
    """Write an attribute as running text."""
    return words(attribute.name) if attribute.kind == "category" else attribute.name


def _words(text: str) -> tuple[str, ...]:
    return tuple(m.group().replace("’", "'") for m in _WORD.finditer(text))


def _quoted(text: str, start: int, end: int) -> bool:
    return text[max(start - 1, 0) : start] in ('"', "'", "“", "‘") and text[end : end + 1] in (
        '"',
        "'",
        "”",
        "’",
    )


def _forms(name: str) -> set[str]:
    """Singular, plural and the aliases of a category, lower case."""
    forms: set[str] = set()
    for base in (name.lower(), *_aliases().get(name.lower(), ())):
        forms |= {base, base + "s"}
        if base.endswith("y"):
            forms.add(base[:-1] + "ies")
        if base.endswith("s") and len(base) > 4 and not base.endswith(("ss", "'s")):
            forms.add(base[:-1])
    return forms


def spellings(names: Mapping[str, object]) -> dict[str, set[str]]:
    """All accepted spellings of category names, for documentation and tests."""
    return {name: _forms(name) for name in names}
