"""The embedding file: what the teacher's side writes and the student's side may read.

Format: ``docs/architecture.md``. Loading is where leakage stops: a vector is accepted only if
the history that it was written from is a prefix of its source user's train sequence.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recbole_kd.data.history import HistoryHasher
from recbole_kd.data.types import Split
from recbole_kd.errors import LeakageError, ProfileError

FORMAT = 1
MANIFEST_KEY = b"recbole_kd"
COLUMNS = ("user", "profile", "source_user", "history_last", "history_hash", "vector")
_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class ProfileRows:
    """Rows of an embedding file, one per (user, profile); arrays share their first axis.

    Attributes
    ----------
    user, source_user : object [R]
        Whose target the vector is, and whose history it describes.
    profile : int64 [R]
        0-based index among the profiles of a user.
    history_last : int64 [R]
        The vector was written from positions 1..history_last; 0 means no history.
    history_hash : object [R]
    vector : float32 [R, D]
    """

    user: NDArray[np.object_]
    profile: NDArray[np.int64]
    source_user: NDArray[np.object_]
    history_last: NDArray[np.int64]
    history_hash: NDArray[np.object_]
    vector: NDArray[np.float32]

    @classmethod
    def build(
        cls,
        user: Sequence[str],
        history_last: ArrayLike,
        history_hash: Sequence[str],
        vector: ArrayLike,
        profile: ArrayLike | None = None,
        source_user: Sequence[str] | None = None,
    ) -> ProfileRows:
        """Convert columns; without ``profile`` every row is profile 0, without ``source_user`` its own."""
        tokens = np.array([str(u) for u in user], dtype=object)
        return cls(
            user=tokens,
            profile=np.zeros(len(tokens), np.int64) if profile is None else np.asarray(profile, np.int64),
            source_user=tokens if source_user is None else np.array([str(u) for u in source_user], object),
            history_last=np.asarray(history_last, np.int64),
            history_hash=np.array([str(h) for h in history_hash], dtype=object),
            vector=np.asarray(vector, np.float32),
        )

    def digest(self) -> str:
        """Content address: the same rows in any order give the same digest."""
        order = np.lexsort((self.profile, self.user.astype(str)))
        state = hashlib.sha256()
        for column in (self.user, self.source_user, self.history_hash):
            encoded = [str(value).encode() for value in column[order]]
            state.update(np.array([len(b) for b in encoded], "<i8").tobytes() + b"".join(encoded))
        for numbers in (self.profile[order], self.history_last[order], np.array(self.vector.shape)):
            state.update(np.ascontiguousarray(numbers, "<i8").tobytes())
        state.update(np.ascontiguousarray(self.vector[order], "<f4").tobytes())
        return state.hexdigest()[:_DIGEST_LENGTH]


@dataclass(frozen=True)
class ProfileTable:
    """Target vectors by user id.

    Attributes
    ----------
    vectors : float32 [n_users, K, D]
        Row 0 is padding; zeros where ``mask`` is false.
    mask : bool [n_users, K]
    manifest : dict
        What the writer said about teacher, encoder, reduction, placebo.
    coverage : float
        Share of the split's train users with at least one profile.
    digest : str
        Content address of the rows.
    verified : bool
        False for vectors without provenance (``trust_unverified``); tables print it.
    """

    vectors: NDArray[np.float32]
    mask: NDArray[np.bool_]
    manifest: dict[str, Any]
    coverage: float
    digest: str
    verified: bool = True


def write_embedding_file(
    path: str | Path,
    rows: ProfileRows,
    manifest: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write an embedding file, whole or not at all.

    Parameters
    ----------
    path : target ``.parquet``; its folder is made
    rows : ProfileRows
    manifest : mapping
        JSON-ready; ``format``, ``n_users`` and ``dimension`` are added.
    metadata : mapping, optional
        Further entries of the schema metadata, beside the manifest.

    Returns
    -------
    str
        Digest of the rows.

    Raises
    ------
    ProfileError
        The rows would be refused on loading (duplicate, NaN, ragged).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    _check_rows(rows, str(path))
    dimension = rows.vector.shape[1]
    full = {**manifest, "format": FORMAT, "n_users": len(set(rows.user)), "dimension": dimension}
    said = {MANIFEST_KEY.decode(): json.dumps(full, sort_keys=True), **(metadata or {})}
    table = pa.table(
        {
            "user": pa.array(rows.user, pa.string()),
            "profile": pa.array(rows.profile, pa.int16()),
            "source_user": pa.array(rows.source_user, pa.string()),
            "history_last": pa.array(rows.history_last, pa.int32()),
            "history_hash": pa.array(rows.history_hash, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.vector.reshape(-1)), dimension),
        }
    ).replace_schema_metadata(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return rows.digest()


def read_embedding_file(path: str | Path) -> tuple[ProfileRows, dict[str, Any]]:
    """Read rows and manifest without a split (checks everything but users and leakage).

    Raises
    ------
    ProfileError
        Missing or foreign file, missing column, duplicate row, NaN, vectors of several lengths.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise ProfileError(f"{path}: no such embedding file; build it with 'run_benchmark.py profiles build'")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0][:120]
        raise ProfileError(f"{path}: not a readable parquet file ({why}); write it anew") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ProfileError(f"{path}, field {missing[0]}: column is missing; expected {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if table[name].null_count:
            line = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise ProfileError(f"{path}, row {line}, field {name}: blank; write the file anew")
    manifest = read_manifest(table.schema.metadata, path)
    rows = ProfileRows(
        user=table["user"].cast(pa.string()).to_numpy().astype(object),
        profile=table["profile"].to_numpy().astype(np.int64),
        source_user=table["source_user"].cast(pa.string()).to_numpy().astype(object),
        history_last=table["history_last"].to_numpy().astype(np.int64),
        history_hash=table["history_hash"].cast(pa.string()).to_numpy().astype(object),
        vector=_vectors(table["vector"].combine_chunks(), path),
    )
    _check_rows(rows, str(path))
    if manifest.get("dimension", rows.vector.shape[1]) != rows.vector.shape[1]:
        raise ProfileError(
            f"{path}, field vector: dimension {rows.vector.shape[1]} but the manifest says "
            f"{manifest['dimension']}; write the file anew"
        )
    return rows, manifest


def load_profiles(path: str | Path, split: Split, *, trust_unverified: bool) -> ProfileTable:
    """Load target vectors for the users of ``split``; users without a row are simply not covered.

    Parameters
    ----------
    path : ``.parquet`` in the format above, or ``.npz`` with ``users`` [R], ``vectors`` [R, D] or [R, K, D]
    split : Split
    trust_unverified : bool
        Accept an ``.npz``, which cannot prove what its vectors saw.

    Raises
    ------
    LeakageError
        A row was not written from a prefix of its source user's train sequence.
    ProfileError
        Everything else that does not fit: unknown user, duplicate, NaN, wrong dimension.
    """
    path = Path(path)
    if path.suffix == ".npz":
        rows, manifest = _read_npz(path, trust_unverified)
    else:
        rows, manifest = read_embedding_file(path)
    ids = {str(token): i for i, token in enumerate(split.dataset.user_tokens)}
    ids.pop(str(split.dataset.user_tokens[0]))
    for name, column in (("user", rows.user), ("source_user", rows.source_user)):
        unknown = next((r for r, token in enumerate(column) if token not in ids), None)
        if unknown is not None:
            raise ProfileError(
                f"{path}, row {unknown}, field {name}: user '{column[unknown]}' is not in dataset "
                f"{split.dataset.name}; build the profiles from this dataset and filter"
            )
    verified = path.suffix != ".npz"
    if verified:
        said = Provenance(rows.source_user, rows.history_last, rows.history_hash, np.arange(len(rows.user)))
        guard_histories(said, ids, split, manifest, path)
    user_ids = np.array([ids[token] for token in rows.user], dtype=np.int64)
    shape = (split.dataset.n_users, int(rows.profile.max()) + 1)
    vectors = np.zeros((*shape, rows.vector.shape[1]), np.float32)
    mask = np.zeros(shape, bool)
    vectors[user_ids, rows.profile] = rows.vector
    mask[user_ids, rows.profile] = True
    covered = np.asarray(mask.any(axis=1))
    coverage = float(covered[split.train.users].mean())
    return ProfileTable(vectors, mask, manifest, coverage, rows.digest(), verified)


class Provenance(NamedTuple):
    """What each row saw: positions 1..history_last of source_user; ``number`` is its row in the file."""

    source_user: NDArray[np.object_]
    history_last: NDArray[np.int64]
    history_hash: NDArray[np.object_]
    number: NDArray[np.int64]


def guard_histories(
    rows: Provenance, ids: Mapping[str, int], split: Split, manifest: Mapping[str, Any], path: Path
) -> None:
    """Refuse every row whose history is not a prefix of its source user's train sequence.

    Raises
    ------
    LeakageError
    """
    train = split.train
    row_of = np.full(split.dataset.n_users, -1)
    row_of[train.users] = np.arange(len(train))
    hashed = HistoryHasher(split.dataset.item_tokens.tolist())
    known: dict[tuple[int, int], str] = {}
    same = manifest.get("split_digest") == split.digest
    mend = "the file is damaged, write it anew" if same else "build the profiles for the split in use"
    for r, token in enumerate(rows.source_user):
        user, last = ids[token], int(rows.history_last[r])
        items = train.row(row_of[user]) if row_of[user] >= 0 else train.items[:0]
        where = f"{path}, row {rows.number[r]}, source_user '{token}'"
        if last > len(items):
            raise LeakageError(
                f"{where}, field history_last: {last}, but this user's train part has {len(items)} "
                f"interactions, so the profile saw validation or test items; {mend}"
            )
        if (user, last) not in known:
            known[user, last] = hashed(items[:last].tolist())
        if known[user, last] != rows.history_hash[r]:
            raise LeakageError(
                f"{where}, field history_hash: the profile was not written from the first {last} train "
                f"interactions of this user; {mend}"
            )


def _check_rows(rows: ProfileRows, where: str) -> None:
    n = len(rows.user)
    if rows.vector.ndim != 2 or rows.vector.shape[1] == 0:
        raise ProfileError(f"{where}, field vector: shape {rows.vector.shape}; give one vector per row")
    if n == 0:
        raise ProfileError(f"{where}: no rows; build the profiles first")
    columns = (rows.profile, rows.source_user, rows.history_last, rows.history_hash, rows.vector)
    if any(len(column) != n for column in columns):
        raise ProfileError(f"{where}: the columns differ in length; give every row all six fields")
    bad = np.flatnonzero(~np.isfinite(rows.vector).all(axis=1))
    if len(bad):
        raise ProfileError(
            f"{where}, row {bad[0]}, field vector: NaN or infinite (user '{rows.user[bad[0]]}'); "
            "encode this text anew"
        )
    for name, column in (("profile", rows.profile), ("history_last", rows.history_last)):
        if (column < 0).any():
            r = int(np.flatnonzero(column < 0)[0])
            raise ProfileError(f"{where}, row {r}, field {name}: {column[r]} is negative; count from 0")
    gaps = np.setdiff1d(np.arange(rows.profile.max() + 1), rows.profile) if rows.profile.max() < n else [0]
    if len(gaps):
        raise ProfileError(f"{where}, field profile: indices must be 0..K-1 without a gap")
    seen: set[tuple[str, int]] = set()
    for r, pair in enumerate(zip(rows.user, rows.profile.tolist(), strict=True)):
        if pair in seen:
            raise ProfileError(
                f"{where}, row {r}: user '{pair[0]}', profile {pair[1]} stands twice; keep one row"
            )
        seen.add(pair)


def read_manifest(metadata: Mapping[bytes, bytes] | None, path: Path) -> dict[str, Any]:
    """Manifest in the schema metadata of a file of this package.

    Raises
    ------
    ProfileError
        There is none, or it is of another format.
    """
    raw = (metadata or {}).get(MANIFEST_KEY)
    try:
        manifest = json.loads(raw) if raw else None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise ProfileError(
            f"{path}: no recbole_kd manifest in the schema metadata; "
            "write the file with 'run_benchmark.py profiles build'"
        )
    if manifest.get("format") != FORMAT:
        stated = manifest.get("format")
        raise ProfileError(f"{path}: format {stated!r}, this version reads {FORMAT}; build it anew")
    return manifest


def _vectors(column: Any, path: Path) -> NDArray[np.float32]:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ProfileError(f"{path}, field vector: type {kind}; expected fixed_size_list<float32>")
    lengths = np.array(column.value_lengths() if not pa.types.is_fixed_size_list(kind) else [kind.list_size])
    ragged = np.flatnonzero(lengths != lengths[:1])
    if len(ragged):
        raise ProfileError(
            f"{path}, row {ragged[0]}, field vector: dimension {lengths[ragged[0]]}, other rows have "
            f"{lengths[0]}; encode all texts with the same encoder and reduction"
        )
    flat = column.flatten()
    if not (pa.types.is_floating(flat.type) and flat.null_count == 0):
        raise ProfileError(f"{path}, field vector: expected numbers without blanks, type is {kind}")
    return flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)


def _read_npz(path: Path, trust_unverified: bool) -> tuple[ProfileRows, dict[str, Any]]:
    if not trust_unverified:
        raise ProfileError(
            f"{path}: an .npz carries no provenance, so leakage cannot be ruled out; set trust_unverified: "
            "true to use it all the same (every table will say so)"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            users, vectors = stored["users"], stored["vectors"]
    except FileNotFoundError:
        raise ProfileError(f"{path}: no such embedding file; give the path of an .npz or .parquet") from None
    except (KeyError, ValueError, OSError) as error:
        raise ProfileError(f"{path}: needs plain arrays 'users' and 'vectors' ({str(error)[:120]})") from None
    if vectors.ndim == 2:
        vectors = vectors[:, None, :]
    if vectors.ndim != 3 or users.shape != vectors.shape[:1] or vectors.dtype.kind not in "fiu":
        raise ProfileError(
            f"{path}, field vectors: shape {vectors.shape} does not fit users {users.shape}; "
            "expected [R, D] or [R, K, D]"
        )
    n, k, dimension = vectors.shape
    rows = ProfileRows.build(
        user=[str(u) for u in np.repeat(users, k)],
        history_last=np.zeros(n * k),
        history_hash=[""] * (n * k),
        vector=vectors.reshape(n * k, dimension),
        profile=np.tile(np.arange(k), n),
    )
    _check_rows(rows, str(path))
    return rows, {"format": FORMAT, "teacher": path.stem, "placebo": None, "n_users": n, "verified": False}
