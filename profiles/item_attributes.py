"""Item texts to keys and values, for students that read items as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from profiles.items import Item, described_items
from profiles.prompts import Domain
from recbole_kd.data.types import Dataset
from recbole_kd.strict import digest

# Raised when the same texts would give other attributes.
FORMAT = 1


def attributes(item: Item, domain: Domain) -> list[tuple[str, str]]:
    """Everything an item says about itself, each under its name; what is empty is left out."""
    year = str(item.year) if item.year and str(item.year) not in item.title else ""
    pairs = [
        ("title", item.title),
        (domain.maker, item.maker),
        (domain.category, ", ".join(item.categories)),
        ("year", year),
    ]
    return [(key, value) for key, value in pairs if value]


def build_item_attributes(
    dataset: Dataset,
    item_texts: Mapping[str, Mapping[str, str]],
    cache_dir: Path,
    *,
    domain: str | None = None,
) -> Path:
    """Write the attributes of the items of a dataset, or find the file; the path is content-addressed.

    Raises
    ------
    ProfileError
        The dataset has no item texts.
    """
    from recbole_kd.data.item_attributes import write_item_attributes

    tokens, catalogue, words = described_items(dataset, item_texts, domain)
    items = {token: attributes(catalogue[token], words) for token in tokens}
    path = Path(cache_dir) / f"attributes-{digest({'format': FORMAT, 'items': items})}.json"
    if not path.is_file():
        write_item_attributes(path, items, dataset.name)
    return path
