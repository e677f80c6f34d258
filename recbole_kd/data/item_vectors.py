"""Item-text vectors: what the teacher's side writes about items and the student's side may read.

Parquet, one row per item: ``item`` (token), ``vector`` (fixed_size_list<float32>[D]). Schema metadata key
``recbole_kd`` = JSON manifest with ``format``, ``kind: items``, ``dataset``, ``texts_digest``, ``encoder``,
``reduction``, ``n_items``, ``dimension``. Item texts hold no interactions, so there is nothing to leak.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.profile_table import MANIFEST_KEY
from recbole_kd.data.types import Dataset
from recbole_kd.errors import ProfileError

FORMAT = 1


@dataclass(frozen=True)
class ItemVectors:
    """Text vectors by item id.

    Attributes
    ----------
    vectors : float32 [n_items, D]
        Zeros for padding and for items without text.
    manifest : dict
    coverage : float
        Share of the catalogue that has a vector.
    digest : str
        Content address of the rows.
    """

    vectors: NDArray[np.float32]
    manifest: dict[str, Any]
    coverage: float
    digest: str


def write_item_vectors(
    path: str | Path, tokens: Sequence[str], vectors: NDArray[np.float32], manifest: Mapping[str, Any]
) -> None:
    """Write item vectors, whole or not at all.

    Raises
    ------
    ProfileError
        Shapes that do not fit, a repeated item, NaN.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    vectors = np.asarray(vectors, np.float32)
    _check(path, tokens, vectors)
    full = {**manifest, "format": FORMAT, "kind": "items", "n_items": len(tokens)}
    full["dimension"] = vectors.shape[1]
    table = pa.table(
        {
            "item": pa.array([str(token) for token in tokens], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        }
    ).replace_schema_metadata({MANIFEST_KEY: json.dumps(full, sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_item_vectors(path: str | Path, dataset: Dataset) -> ItemVectors:
    """Read the vectors of the items of ``dataset``; items without a row get zeros.

    Raises
    ------
    ProfileError
        Missing or foreign file, NaN, or no item of the dataset in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise ProfileError(f"{path}: no such file of item vectors; run the same command again")
    try:
        table = pq.read_table(path, columns=["item", "vector"])
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        why = str(error).splitlines()[0][:120]
        raise ProfileError(f"{path}: not a file of item vectors ({why}); delete it and run again") from None
    raw = (table.schema.metadata or {}).get(MANIFEST_KEY)
    manifest = json.loads(raw) if raw else {}
    if manifest.get("kind") != "items" or manifest.get("format") != FORMAT:
        raise ProfileError(f"{path}: not item vectors of format {FORMAT}; delete it and run again")
    tokens = table["item"].to_pylist()
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = flat.astype(np.float32).reshape(len(tokens), -1)
    _check(path, tokens, rows)
    at = {token: r for r, token in enumerate(tokens)}
    found = np.array([at.get(str(token), -1) for token in dataset.item_tokens])
    found[0] = -1
    if not (found >= 0).any():
        raise ProfileError(
            f"{path}, field item: no item of dataset {dataset.name}; build it from this dataset"
        )
    vectors = np.where(found[:, None] >= 0, rows[np.maximum(found, 0)], 0).astype(np.float32)
    digest = hashlib.sha256(np.ascontiguousarray(vectors, "<f4").tobytes()).hexdigest()[:16]
    return ItemVectors(vectors, manifest, float((found[1:] >= 0).mean()), digest)


def _check(path: Path, tokens: Sequence[str], vectors: NDArray[np.float32]) -> None:
    if vectors.ndim != 2 or len(vectors) != len(tokens) or not len(tokens) or vectors.shape[1] == 0:
        raise ProfileError(f"{path}, field vector: shape {vectors.shape} for {len(tokens)} items")
    if len(set(tokens)) < len(tokens):
        raise ProfileError(f"{path}, field item: an item stands twice; keep one row")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise ProfileError(f"{path}, row {bad[0]}, field vector: NaN or infinite (item '{tokens[bad[0]]}')")
