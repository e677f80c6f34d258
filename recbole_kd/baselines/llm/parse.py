"""Rankings out of a language model's answer: titles, numbers or JSON, whatever it chose to write."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence

_MARKER = re.compile(
    r"^\s*[-*\u2022>#]*\s*(?:[\[(]?\d{1,3}[\])]?[.):\-]*\s+|[\[(]\d{1,3}[\])]\s*|\d{1,3}[.)]\s*)?"
)
_RANKED = re.compile(r"^\W*(\d{1,3})\s*[.):\-]+\s*\W?(\d{1,4})\W*$")
_NUMBER = re.compile(r"^\W*(\d{1,4})\W*$")
_SEPARATORS = re.compile(r"[,;>|\s]+")
_WORD = re.compile(r"\w")


def parse_ranking(text: str, titles: Sequence[str], threshold: float) -> list[int]:
    """Candidates that an answer names, best first.

    Every entry (JSON element, line, or part between commas) is compared with the titles: equal but for case,
    space and punctuation; beginning with a title; or as similar as ``threshold``. Where no entry is a title,
    titles are looked for within the text, in the order of their mention; where there is none either, numbers
    are taken for those that the prompt gave to the candidates.

    Parameters
    ----------
    text : str
    titles : sequence of str
        In the order in which the prompt showed them.
    threshold : float
        Least ``difflib.SequenceMatcher`` ratio of a fuzzy match, (0, 1]; 1 turns it off.

    Returns
    -------
    list of int
        0-based places in ``titles``, each at most once. Empty for an answer of no use.
    """
    entries = list(_json_entries(text))
    if not entries:
        entries = [line for line in text.splitlines() if line.strip()]
    found = _Found(titles, threshold)
    for entry in entries:
        found.title(entry)
    if len(found.places) < 2:
        # "Heat, Toy Story, Alien" is one line that begins with a title.
        apart = _Found(titles, threshold)
        for entry in entries:
            for part in re.split(r"\s*[,;>|]\s*", entry):
                apart.title(part)
        found = apart if len(apart.places) > len(found.places) else found
    if not found.places:
        found.mentions(text)
    if not found.places:
        found.numbers(entries)
    return found.places


class _Found:
    """Places in the order of their naming."""

    def __init__(self, titles: Sequence[str], threshold: float) -> None:
        self.places: list[int] = []
        self._threshold = threshold
        self._n = len(titles)
        self._by_key: dict[str, list[int]] = {}
        for place, title in enumerate(titles):
            self._by_key.setdefault(plain(title), []).append(place)
        # The longest first: "Alien 3" before "Alien".
        self._keys = sorted((key for key in self._by_key if key), key=len, reverse=True)

    def _take(self, key: str) -> bool:
        free = [place for place in self._by_key[key] if place not in self.places]
        self.places += free[:1]
        return True

    def title(self, entry: str) -> bool:
        """Add the candidate that an entry names; False where it names none."""
        forms = dict.fromkeys(plain(form) for form in (entry, _MARKER.sub("", entry, count=1)))
        forms.pop("", None)
        for form in forms:
            if form in self._by_key and not (form.isdigit() and len(form) < 3):
                return self._take(form)
        for form in forms:
            begins = next((key for key in self._keys if len(key) > 2 and form.startswith(f"{key} ")), None)
            if begins is not None and not begins.isdigit():
                return self._take(begins)
        for form in forms if self._threshold < 1 else ():
            near = difflib.get_close_matches(form, self._keys, n=1, cutoff=self._threshold)
            if near:
                return self._take(near[0])
        return False

    def mentions(self, text: str) -> None:
        """Add titles that stand anywhere in a text, by their first place in it; longer titles first."""
        words, at = f" {plain(text)} ", {}
        for key in self._keys:
            place = words.find(f" {key} ") if len(key) > 2 and not key.isdigit() else -1
            if place >= 0:
                at[key] = place
                words = words.replace(f" {key} ", f" {'_' * len(key)} ")
        for key in sorted(at, key=lambda k: at[k]):
            self._take(key)

    def numbers(self, entries: Sequence[str]) -> None:
        """Add the candidates whose numbers the entries list; an entry with other words lists none."""
        ranked = [_RANKED.match(entry) for entry in entries]
        if len(entries) > 1 and all(m and int(m[1]) == i for i, m in enumerate(ranked, 1)):
            entries = [m[2] for m in ranked if m]  # "1. 7" is place 1, candidate 7
        for entry in entries:
            parts = [part for part in _SEPARATORS.split(entry.strip()) if _WORD.search(part)]
            numbers = [_NUMBER.match(part) for part in parts]
            for number in numbers if all(numbers) else ():
                assert number is not None
                place = int(number[1]) - 1
                if 0 <= place < self._n and place not in self.places:
                    self.places.append(place)


def plain(text: str) -> str:
    """Case, accents, punctuation and repeated space removed.

    Examples
    --------
    >>> plain('  "Amélie",  (2001) ')
    'amelie 2001'
    """
    text = unicodedata.normalize("NFKD", text).casefold()
    kept = (" " if not c.isalnum() else c for c in text if not unicodedata.combining(c))
    return " ".join("".join(kept).split())


def _json_entries(text: str) -> Iterator[str]:
    """Elements of the first JSON list in a text, or of an object's first list; none where there is none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[\[{]", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if isinstance(value, dict):
            value = next((v for v in value.values() if isinstance(v, list)), None)
        # "[3] > [1] > [2]" is no JSON list of one.
        if isinstance(value, list) and (len(value) > 1 or text.count("[") == 1):
            yield from map(_entry, value)
            return


def _entry(value: object) -> str:
    if isinstance(value, dict):
        named = [value[key] for key in ("title", "name", "item") if key in value]
        value = named[0] if named else next(iter(value.values()), "")
    return str(value)
