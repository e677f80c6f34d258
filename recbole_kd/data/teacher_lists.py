"""Ranked lists of items, one per user: what objectives over lists learn from.

Parquet, one row per (user, rank): ``user``, ``rank`` (from 1, without a gap), ``item``, ``score`` (larger is
better; without this column minus the rank), and the provenance of an embedding file: ``source_user``,
``history_last``, ``history_hash``. Schema metadata as there. A ``.csv`` with ``user, rank, item[, score]``
has no provenance and is accepted only with ``trust_unverified``.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.profile_table import FORMAT, MANIFEST_KEY, Provenance, guard_histories, read_manifest
from recbole_kd.data.types import Split
from recbole_kd.errors import LeakageError, ProfileError

if TYPE_CHECKING:
    import pandas as pd

    from recbole_kd.data.profile_table import ProfileTable

RANKED = ("user", "rank", "item")
PROVENANCE = ("source_user", "history_last", "history_hash")
_TYPES = {"user": "string", "rank": "int32", "item": "string", "score": "float32"}
_TYPES |= {"source_user": "string", "history_last": "int32", "history_hash": "string"}


@dataclass(frozen=True)
class TeacherLists:
    """Lists by user id.

    Attributes
    ----------
    items : int64 [n_users, K]
        Best first; 0 where a list is shorter.
    score : float32 [n_users, K]
        0 where there is no item.
    manifest : dict
    coverage : float
        Share of the split's train users with a list.
    digest : str
        Content address of the rows.
    verified : bool
        False for lists without provenance (``trust_unverified``).
    vectors : ProfileTable or None
        States of the recommender that made the lists, where they are learned too.
    """

    items: NDArray[np.int64]
    score: NDArray[np.float32]
    manifest: dict[str, Any]
    coverage: float
    digest: str
    verified: bool = True
    vectors: ProfileTable | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Who has a list, bool [n_users, 1], as for profiles."""
        known: NDArray[np.bool_] = np.any(self.items > 0, axis=1, keepdims=True)
        return known


def write_teacher_lists(
    path: str | Path,
    rows: pd.DataFrame,
    manifest: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a list file, whole or not at all.

    Parameters
    ----------
    path : target ``.parquet``; its folder is made
    rows : DataFrame
        The columns named above.
    manifest : mapping
        JSON-ready; ``format`` and ``n_users`` are added.
    metadata : mapping, optional
        Further entries of the schema metadata, beside the manifest.

    Raises
    ------
    ProfileError
        The rows would be refused on loading.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    _check(rows, path)
    full = {**manifest, "format": FORMAT, "kind": "lists", "n_users": int(rows["user"].nunique())}
    kinds = {"string": pa.string(), "int32": pa.int32(), "float32": pa.float32()}
    columns = {name: pa.array(rows[name].to_numpy(), kinds[kind]) for name, kind in _TYPES.items()}
    said = {MANIFEST_KEY.decode(): json.dumps(full, sort_keys=True), **(metadata or {})}
    table = pa.table(columns).replace_schema_metadata(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_teacher_lists(path: str | Path, split: Split, *, trust_unverified: bool) -> TeacherLists:
    """Load lists for the users of ``split``; users without one are simply not covered.

    Raises
    ------
    LeakageError
        A list was made from something outside the train part of the split.
    ProfileError
        Unknown user or item, an item twice, a gap in the ranks, NaN.
    """
    path = Path(path)
    rows, manifest, verified = _read(path, trust_unverified)
    _check(rows, path)
    users, items = _ids(split.dataset.user_tokens), _ids(split.dataset.item_tokens)
    user_id = _known(rows, "user", users, path, split)
    item_id = _known(rows, "item", items, path, split)
    if verified:
        _known(rows, "source_user", users, path, split)
        _guard(rows, users, split, manifest, path)
    rank = rows["rank"].to_numpy(np.int64)
    shape = (split.dataset.n_users, int(rank.max()))
    grid, score = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    grid[user_id, rank - 1] = item_id
    score[user_id, rank - 1] = rows["score"].to_numpy(np.float32)
    coverage = float((grid[split.train.users] > 0).any(1).mean())
    return TeacherLists(grid, score, manifest, coverage, _digest(rows), verified)


def _read(path: Path, trust_unverified: bool) -> tuple[pd.DataFrame, dict[str, Any], bool]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ProfileError(f"{path}: no such file of teacher lists")
    verified = path.suffix != ".csv"
    if not verified and not trust_unverified:
        raise ProfileError(
            f"{path}: a .csv carries no provenance, so leakage cannot be ruled out; set trust_unverified: "
            "true to use it all the same (every table will say so)"
        )
    try:
        if verified:
            table = pq.read_table(path)
            rows, manifest = table.to_pandas(), read_manifest(table.schema.metadata, path)
        else:
            rows, manifest = pd.read_csv(path, dtype={"user": str, "item": str}), {"source": "file"}
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ProfileError(f"{path}: not readable ({str(error).splitlines()[0][:120]})") from None
    if "score" not in rows and "rank" in rows:
        rows["score"] = -pd.to_numeric(rows["rank"], errors="coerce")
    wanted = [*RANKED, *(PROVENANCE if verified else ())]
    if missing := [name for name in wanted if name not in rows]:
        raise ProfileError(f"{path}, field {missing[0]}: column is missing; expected {', '.join(wanted)}")
    for name in [*wanted, "score"]:
        if rows[name].isna().any():
            r = int(np.flatnonzero(rows[name].isna())[0])
            raise ProfileError(f"{path}, row {r}, field {name}: blank or no number; write the file anew")
    return rows, manifest, verified


def _check(rows: pd.DataFrame, path: Path) -> None:
    if not len(rows):
        raise ProfileError(f"{path}: no rows; nobody has a list")
    for name in ("rank", "score"):
        if rows[name].dtype.kind not in "iuf":
            raise ProfileError(f"{path}, field {name}: expected numbers")
    bad = np.flatnonzero(~np.isfinite(rows["score"].to_numpy(np.float64)))
    if len(bad):
        raise ProfileError(f"{path}, row {bad[0]}, field score: NaN or infinite")
    twice = np.flatnonzero(rows.duplicated(["user", "item"]))
    if len(twice):
        row = rows.iloc[twice[0]]
        raise ProfileError(
            f"{path}, row {twice[0]}, field item: '{row['item']}' stands twice in the list of user "
            f"'{row['user']}'; keep the better rank"
        )
    order = rows.sort_values(["user", "rank"], kind="stable")
    place = order.groupby("user", sort=False).cumcount() + 1
    wrong = np.flatnonzero((order["rank"] != place).to_numpy())
    if len(wrong):
        r = int(np.flatnonzero(rows.index == order.index[wrong[0]])[0])
        raise ProfileError(
            f"{path}, row {r}, field rank: {rows['rank'].iloc[r]} (user '{rows['user'].iloc[r]}'); "
            "ranks of a user must be 1, 2, 3, ..."
        )


def _ids(tokens: NDArray[np.object_]) -> dict[str, int]:
    return {str(token): i for i, token in enumerate(tokens) if i}


def _known(
    rows: pd.DataFrame, name: str, ids: Mapping[str, int], path: Path, split: Split
) -> NDArray[np.int64]:
    found = rows[name].astype(str).map(ids)
    if found.isna().any():
        r = int(np.flatnonzero(found.isna())[0])
        what = "item" if name == "item" else "user"
        raise ProfileError(
            f"{path}, row {r}, field {name}: {what} '{rows[name].iloc[r]}' is not in dataset "
            f"{split.dataset.name}; make the lists from this dataset and filter"
        )
    return found.to_numpy(np.int64)


def _guard(
    rows: pd.DataFrame, users: Mapping[str, int], split: Split, manifest: Mapping[str, Any], path: Path
) -> None:
    """Refuse lists that were not made from a prefix of their source user's train sequence."""
    trained = manifest.get("trained_on")
    if trained is not None and trained != split.digest:
        raise LeakageError(
            f"{path}: the teacher was trained on split {trained}, in use is {split.digest}; it may have seen "
            "validation or test items: train it on this split"
        )
    columns = list(PROVENANCE)
    different = rows.groupby("user", sort=False)[columns].nunique().max(axis=1)
    if (different > 1).any():
        user = different.index[(different > 1).to_numpy()][0]
        raise ProfileError(f"{path}, user '{user}', field history_hash: one list, several histories")
    first = np.flatnonzero(~rows.duplicated("user"))
    said = rows.iloc[first]
    guard_histories(
        Provenance(
            said["source_user"].astype(str).to_numpy(object),
            said["history_last"].to_numpy(np.int64),
            said["history_hash"].astype(str).to_numpy(object),
            first,
        ),
        users,
        split,
        manifest,
        path,
    )


def _digest(rows: pd.DataFrame) -> str:
    state = hashlib.sha256()
    for row in rows.sort_values(["user", "rank"], kind="stable")[[*RANKED, "score"]].itertuples(index=False):
        state.update(f"{row.user}\0{row.rank}\0{row.item}\0{np.float32(row.score)!r}\n".encode())
    return state.hexdigest()[:16]
