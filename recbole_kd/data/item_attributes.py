"""Keys and values of the items: what the teacher's side writes about items for students that read words.

JSON: ``{"format": 1, "kind": "attributes", "dataset": name, "items": {token: [[key, value], ...]}}``. Item
texts hold no interactions, so there is nothing to leak.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_kd.data.types import Dataset
from recbole_kd.errors import ProfileError
from recbole_kd.strict import digest

FORMAT = 1
Pairs = tuple[tuple[str, str], ...]


def write_item_attributes(
    path: str | Path, items: Mapping[str, Sequence[tuple[str, str]]], dataset: str
) -> None:
    """Write the attributes of items, whole or not at all."""
    path = Path(path)
    content = {"format": FORMAT, "kind": "attributes", "dataset": dataset}
    text = json.dumps(
        content | {"items": {k: [list(p) for p in v] for k, v in items.items()}}, sort_keys=True
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_item_attributes(path: str | Path, dataset: Dataset) -> tuple[tuple[Pairs, ...], str]:
    """Read the attributes of the items of ``dataset``, by item id; () for padding and unknown items.

    Returns
    -------
    tuple of pairs, one per item
    str
        Content address.

    Raises
    ------
    ProfileError
        Missing or foreign file, or no item of the dataset in it.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["items"]
        if content["kind"] != "attributes" or content["format"] != FORMAT:
            raise KeyError("kind")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProfileError(
            f"{path}: not a file of item attributes ({error}); delete it and run again"
        ) from None
    rows: list[Pairs] = [()]
    for token in dataset.item_tokens[1:]:
        rows.append(tuple((str(k), str(v)) for k, v in known.get(str(token), ())))
    if not any(rows):
        raise ProfileError(f"{path}: no item of dataset {dataset.name} is in it; build it from this dataset")
    return tuple(rows), digest(rows)
