"""Damage of a known dose: ``rate`` in [0, 1], seeded, nested, and rate 0 is the identity.

Every unit of a text (a mention, a sentence, a word) has one random number that depends on the seed,
the user and the unit only; it is damaged when the number is below the rate, in the same way at
every rate. What is corrupted at .25 therefore is corrupted in the same way at .5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from profiles.corrupt.base import Corruption, Dice, TextContext
from profiles.progress import Progress, tracked
from profiles.registry import Registry

if TYPE_CHECKING:
    from profiles.lexicon import Attribute, Lexicon
    from profiles.prompts import Domain
    from profiles.spec import CorruptionSpec, TeacherSpec
    from profiles.store import Profile
    from recbole_kd.data.profile_table import ProfileRows
    from recbole_kd.data.types import Split

CORRUPTIONS: Registry[Corruption] = Registry(
    "corruption",
    {
        "attribute-swap": "profiles.corrupt.attribute_swap:CORRUPTION",
        "sentence-swap": "profiles.corrupt.sentence_swap:CORRUPTION",
        "invented-claims": "profiles.corrupt.invented_claims:CORRUPTION",
        "contradiction": "profiles.corrupt.contradiction:CORRUPTION",
        "boilerplate": "profiles.corrupt.boilerplate:CORRUPTION",
        "truncation": "profiles.corrupt.truncation:CORRUPTION",
        "noise": "profiles.corrupt.noise:CORRUPTION",
        "rotation": "profiles.corrupt.rotation:CORRUPTION",
        "shuffle": "profiles.corrupt.shuffle:CORRUPTION",
    },
)


def corrupt_texts(
    spec: TeacherSpec,
    split: Split,
    profiles: Sequence[Profile],
    item_texts: Mapping[str, Mapping[str, str]],
    domain: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Texts of ``profiles`` after the text-level corruptions of ``spec``, in order.

    ``progress(done, total)`` is told in texts, once through for every corruption.
    """
    texts = [p.text for p in profiles]
    chosen = [c for c in spec.corruption if c.rate > 0 and CORRUPTIONS[c.kind].level == "text"]
    if not chosen:
        return texts
    from profiles.build import make_author
    from profiles.history import train_histories
    from profiles.lexicon import Lexicon

    histories = {h.user: h for h in train_histories(split)}
    template = spec.writer.model_copy(update={"backend": "template", "prompt": "template"})
    author = make_author(spec.model_copy(update={"writer": template}), split, item_texts, domain, [])
    lexicon = Lexicon(author.catalogue, (item for h in histories.values() for item in h.items), titles=False)
    owned = [frozenset(lexicon.of_items(histories[p.user].items)) for p in profiles]
    names = [f"{p.user}/{p.profile}" for p in profiles]
    return apply_to_texts(chosen, texts, names, owned, lexicon, author.prompt.domain, progress)


def apply_to_texts(
    specs: Sequence[CorruptionSpec],
    texts: Sequence[str],
    names: Sequence[str],
    owned: Sequence[frozenset[Attribute]],
    lexicon: Lexicon,
    domain: Domain,
    progress: Progress | None = None,
) -> list[str]:
    """Apply text-level corruptions one after another.

    Parameters
    ----------
    names : sequence of str
        Unique name of every text; with the seed it decides what is damaged.
    owned : sequence of frozenset of Attribute
        What the history behind every text supports.
    """
    current = list(texts)
    for spec in specs:
        corruption = CORRUPTIONS[spec.kind]
        if corruption.level != "text" or spec.rate == 0:
            continue
        before = tuple(current)
        current = []
        units = tracked(zip(before, names, owned, strict=True), progress, len(before))
        for i, (text, name, own) in enumerate(units):
            dice = Dice(f"{spec.kind}:{spec.seed}:{name}")
            current.append(corruption.text(text, spec, dice, TextContext(own, lexicon, domain, before, i)))
    return current


def corrupt_rows(specs: Sequence[CorruptionSpec], rows: ProfileRows) -> ProfileRows:
    """Rows after the embedding-level corruptions among ``specs``."""
    for spec in specs:
        corruption = CORRUPTIONS[spec.kind]
        if corruption.level == "embedding" and spec.rate > 0:
            rows = corruption.rows(rows, spec)
    return rows


__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "Dice",
    "TextContext",
    "apply_to_texts",
    "corrupt_rows",
    "corrupt_texts",
]
