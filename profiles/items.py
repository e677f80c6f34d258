"""What an item says about itself, cleaned: titles and categories are untrusted text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles.prompts import Domain, domain_for, load_domain
from recbole_kd.data.types import Dataset
from recbole_kd.errors import ProfileError

MAX_TITLE = 80
MAX_NAME = 40
_QUOTED = re.compile(r"'((?:[^']|'(?!\s*(?:,|$)))*)'(?:\s*,\s*|$)")
_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les|Le|La|L'|Il|Das|Der|Die|El)$")
# Chat-template and tool markers must never reach a model from an item.
_BRACKETS = str.maketrans({"<": "‹", ">": "›", "`": "'"})  # so no text can close a tag of ours
_MARKERS = re.compile(r"<\|.*?\|>|</?s>|\[/?INST\]|<</?SYS>>|<(start|end)_of_turn>", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """Cleaned text of one item; missing roles are empty."""

    title: str
    categories: tuple[str, ...]
    maker: str
    year: int | None


def clean(text: str, limit: int) -> str:
    """One line of printable text without control characters or chat markers, at most ``limit`` long.

    Examples
    --------
    >>> clean("Toy\\nStory <|im_end|>", 80)
    'Toy Story'
    """
    text = _MARKERS.sub(" ", unicodedata.normalize("NFKC", text))
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    text = " ".join(text.translate(_BRACKETS).split())
    if len(text) <= limit:
        return text
    return text[: limit - 3].rsplit(" ", 1)[0].rstrip(" ,;:-") + "..."


def split_categories(raw: str) -> tuple[str, ...]:
    """Cut a raw category string at quotes, bars, commas or, failing these, spaces.

    Examples
    --------
    >>> split_categories("'Makeup', 'Nail Polish'")
    ('Makeup', 'Nail Polish')
    >>> split_categories("Animation Children's Comedy")
    ('Animation', "Children's", 'Comedy')
    """
    raw = raw.strip()
    if raw.startswith("'") and (quoted := [m.group(1) for m in _QUOTED.finditer(raw)]):
        parts = quoted
    elif "|" in raw:
        parts = raw.split("|")
    elif "," in raw:
        parts = raw.split(",")
    elif raw.startswith("("):
        parts = [raw]
    else:
        parts = raw.split()
    cleaned = (clean(part, MAX_NAME) for part in parts)
    return tuple(dict.fromkeys(part for part in cleaned if part))


class Catalogue:
    """Items by token, cleaned on first use, with the roles that the dataset has.

    Parameters
    ----------
    texts : mapping
        Item token -> field -> raw text (``recbole_kd.data.load.load_item_texts``).
    domain : Domain
        Says which field plays which role.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, str]], domain: Domain) -> None:
        self._texts = texts
        self._domain = domain
        self._items: dict[str, Item] = {}
        fields = list(next(iter(texts.values()), {}))
        self.roles = {
            role: next((n for n in names if n in fields), None) for role, names in domain.roles.items()
        }
        if self.roles.get("title") is None and fields:
            taken = set(self.roles.values())
            self.roles["title"] = next((name for name in fields if name not in taken), fields[0])

    def __getitem__(self, token: str) -> Item:
        if token not in self._items:
            self._items[token] = self._read(self._texts.get(token, {}), token)
        return self._items[token]

    def _read(self, text: Mapping[str, str], token: str) -> Item:
        def role(name: str) -> str:
            field = self.roles.get(name)
            return text.get(field, "") if field else ""

        title = clean(role("title"), MAX_TITLE)
        if self._domain.tidy_titles and (match := _ARTICLE.match(title)):
            space = "" if match["article"].endswith("'") else " "
            title = match["article"] + space + match["rest"]
        year = re.search(r"\b(1[89]\d\d|20\d\d)\b", role("year"))
        return Item(
            title=title or f"{self._domain.item} {clean(token, MAX_NAME)}",
            categories=tuple(
                c for c in split_categories(role("categories")) if c not in self._domain.drop_categories
            ),
            maker=clean(role("maker"), MAX_NAME),
            year=int(year[0]) if year else None,
        )


def without_categories(file: Path, fields: Sequence[str], domain: Domain) -> str | None:
    """One line where no text field of a dataset is taken for its categories; None where one is.

    Parameters
    ----------
    file : Path
        The ``.item`` file, to be named.
    fields : sequence of str
        Its text columns.
    domain : Domain
        Says which names are recognised.
    """
    names = domain.roles["categories"]
    if any(name in fields for name in names):
        return None
    return (
        f"{file}: none of the text fields {', '.join(fields)} is known as the categories of items, so that "
        f"profiles name none and say little; call the column {' or '.join(names)} (domain {domain.name}) "
        "and name it under text.fields"
    )


def described_items(
    dataset: Dataset, texts: Mapping[str, Mapping[str, str]], domain: str | None
) -> tuple[list[str], Catalogue, Domain]:
    """Tokens of the items that have a text, their catalogue, and the domain whose words describe them.

    Raises
    ------
    ProfileError
        The dataset has no item texts.
    """
    tokens = [str(token) for token in dataset.item_tokens[1:] if str(token) in texts]
    if not tokens:
        raise ProfileError(f"dataset {dataset.name}: no item texts; set 'text' in its YAML")
    words = load_domain(domain) if domain else domain_for(list(next(iter(texts.values()), {})))
    return tokens, Catalogue(texts, words), words
