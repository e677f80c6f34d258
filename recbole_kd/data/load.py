"""From atomic files to filtered per-user sequences and item texts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_kd.data.atomic import (
    AtomicFile,
    open_atomic,
    read_interactions,
    require_columns,
    wanted_columns,
)
from recbole_kd.data.spec import DatasetSpec, FilterSpec, TextSpec
from recbole_kd.data.types import Dataset, IntArray, Sequences
from recbole_kd.errors import DataError

PAD_TOKEN = "[PAD]"  # noqa: S105 - the padding id's name in RecBole
DIGEST_LENGTH = 16
_DIGESTED_AT_ONCE = 1 << 20


def load_dataset(spec: DatasetSpec) -> Dataset:
    """Read, filter and order the interactions of a dataset.

    Ids are given as RecBole gives them: by first appearance among the kept lines of the file,
    from 1. Interactions of one user are ordered by the file's own time (float64), ties by line.

    Raises
    ------
    DataError
        A file is missing or malformed, or the filters keep nothing.
    """
    if spec.memory is not None:
        from recbole_kd.data.mapped import load_mapped

        return load_mapped(spec)
    path = spec.folder() / f"{spec.name}.inter"
    fields = spec.fields
    frame = read_interactions(path, fields.user, fields.item, fields.time, fields.rating)
    raw = _Columns.of(frame)
    counts = {
        "file_users": len(frame["user"].cat.categories),
        "file_items": len(frame["item"].cat.categories),
        "file_interactions": len(frame),
        "time_is_position": int(_is_position(raw)),
    }
    if spec.filter.min_rating is not None and raw.rating is None:
        raise DataError(f"{path}: filter.min_rating needs fields.rating; name the column or set it to null")
    keep, dropped = _filter(raw, spec.filter)
    if not keep.any():
        raise DataError(
            f"{path}: the filters keep no interaction; lower min_rating, min_user_inter or min_item_inter"
        )
    users, user_tokens = _first_appearance(frame["user"], keep)
    items, item_tokens = _first_appearance(frame["item"], keep)
    if PAD_TOKEN in user_tokens[1:] or PAD_TOKEN in item_tokens[1:]:
        raise DataError(f"{path}: the id '{PAD_TOKEN}' is reserved for padding; rename it")
    times = raw.time[keep]
    order = np.lexsort((times, users))
    sequences = _group(users[order], items[order])
    ratings = None if raw.rating is None else raw.rating[keep][order].astype(np.float32)
    counts |= dropped | {
        "users": len(user_tokens) - 1,
        "items": len(item_tokens) - 1,
        "interactions": len(items),
    }
    return Dataset(
        name=spec.name,
        user_tokens=user_tokens,
        item_tokens=item_tokens,
        sequences=sequences,
        times=times[order],
        ratings=ratings,
        counts=counts,
        digest=content_digest(user_tokens, item_tokens, sequences, times[order], ratings, order),
        file_rows=order.astype(np.int64),
    )


def load_item_texts(spec: DatasetSpec) -> dict[str, dict[str, str]]:
    """Read the words of the ``.item`` file.

    Values are raw: ``'Makeup', 'Nail Polish'`` stays one string where RecBole would cut it at
    every space. Texts are untrusted input.

    Returns
    -------
    dict
        Item token -> field -> text, for every line of the file; ``{}`` when ``text`` is null.

    Raises
    ------
    DataError
        Missing file or column, blank or repeated item id, wrong number of fields.
    """
    if spec.text is None:
        return {}
    file = _open_items(spec, spec.text)
    key, names = spec.fields.item, list(file.columns)
    at = {name: names.index(name) for name in spec.text.fields}
    texts: dict[str, dict[str, str]] = {}
    for number, fields in file.lines():
        token, where = fields[names.index(key)], f"{file.path}, line {number}, field {key}"
        if not token.strip():
            raise DataError(f"{where}: blank; fill it in or remove the line")
        if token in texts:
            raise DataError(f"{where}: item '{token[:60]}' stands twice; keep one line")
        texts[token] = {name: fields[i] for name, i in at.items()}
    if not texts:
        raise DataError(f"{file.path}: no rows after the header; add items or set text: null")
    return texts


def check_headers(spec: DatasetSpec) -> None:
    """Refuse files that lack a column which the dataset YAML names; only their first lines are read.

    Raises
    ------
    DataError
        Missing file, malformed header, missing column.
    """
    fields = spec.fields
    file = open_atomic(spec.folder() / f"{spec.name}.inter", rows=False)
    require_columns(file, wanted_columns(fields.user, fields.item, fields.time, fields.rating))
    if spec.text is not None:
        _open_items(spec, spec.text, rows=False)


def _open_items(spec: DatasetSpec, text: TextSpec, *, rows: bool = True) -> AtomicFile:
    """The ``.item`` file, with every column that is asked for."""
    file = open_atomic(spec.folder() / f"{spec.name}.item", rows=rows)
    file.require([spec.fields.item], "token")
    for name in text.fields:
        if name not in file.columns:
            raise DataError(
                f"{file.path}, line 1: no column '{name}'; the file has {', '.join(file.columns)}: "
                "mend text.fields"
            )
    return file


@dataclass(frozen=True)
class _Columns:
    """Columns of the file as arrays; ``user`` and ``item`` are arbitrary codes."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.float64]
    rating: NDArray[np.float64] | None

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Columns:
        return cls(
            frame["user"].cat.codes.to_numpy().astype(np.int64),
            frame["item"].cat.codes.to_numpy().astype(np.int64),
            frame["time"].to_numpy(),
            frame["rating"].to_numpy() if "rating" in frame else None,
        )


def _is_position(raw: _Columns) -> bool:
    """Whether every user's times are exactly 1, 2, 3, ..., so no clock at all."""
    order = np.lexsort((raw.time, raw.user))
    user, time = raw.user[order], raw.time[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    lengths = np.diff(np.r_[starts, len(user)])
    position = np.arange(1, len(user) + 1) - np.repeat(starts, lengths)
    return bool((lengths > 1).any() and (time == position).all())


def _filter(raw: _Columns, spec: FilterSpec) -> tuple[NDArray[np.bool_], dict[str, int]]:
    keep = np.ones(len(raw.user), dtype=bool)
    if spec.min_rating is not None and raw.rating is not None:
        keep &= raw.rating >= spec.min_rating
    after_rating = int(keep.sum())
    rounds = 0
    if spec.min_user_inter > 1 or spec.min_item_inter > 1:
        while True:
            user_n = np.bincount(raw.user[keep], minlength=int(raw.user.max()) + 1)
            item_n = np.bincount(raw.item[keep], minlength=int(raw.item.max()) + 1)
            fits = (user_n[raw.user] >= spec.min_user_inter) & (item_n[raw.item] >= spec.min_item_inter)
            if not (keep & ~fits).any():
                break
            keep &= fits
            rounds += 1
            if not spec.iterate:
                break
    return keep, {
        "dropped_by_rating": len(keep) - after_rating,
        "dropped_by_count": after_rating - int(keep.sum()),
        "filter_rounds": rounds,
    }


def _first_appearance(column: pd.Series, keep: NDArray[np.bool_]) -> tuple[IntArray, NDArray[np.object_]]:
    """Return ids from 1 in order of first appearance, and the token of every id."""
    codes, first = pd.factorize(column.cat.codes.to_numpy()[keep])
    tokens = np.empty(len(first) + 1, dtype=object)
    tokens[0] = PAD_TOKEN
    tokens[1:] = column.cat.categories.to_numpy(dtype=object)[first]
    return codes.astype(np.int64) + 1, tokens


def _group(users: IntArray, items: IntArray) -> Sequences:
    """Build CSR rows from interactions sorted by user."""
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    return Sequences(users[starts], np.r_[starts, len(users)].astype(np.int64), items)


def content_digest(
    user_tokens: NDArray[np.object_],
    item_tokens: NDArray[np.object_],
    sequences: Sequences,
    times: NDArray[np.float64],
    ratings: NDArray[np.float32] | None,
    rows: NDArray[np.int64],
) -> str:
    """Content address of filtered interactions, in whatever memory they lie."""
    state = hashlib.sha256()
    for tokens in (user_tokens, item_tokens):
        joined = [str(t).encode("utf-8") for t in tokens]
        state.update(np.array([len(b) for b in joined], dtype="<i8").tobytes())
        state.update(b"".join(joined))
    for array in (sequences.offsets, sequences.items, rows):
        _update(state, array, "<i8")
    _update(state, times, "<f8")
    if ratings is None:
        state.update(b"-")
    else:
        _update(state, ratings, "<f4")
    return state.hexdigest()[:DIGEST_LENGTH]


def _update(state: Any, array: NDArray[Any], dtype: str) -> None:
    for begin in range(0, len(array), _DIGESTED_AT_ONCE):
        state.update(np.ascontiguousarray(array[begin : begin + _DIGESTED_AT_ONCE], dtype=dtype).tobytes())
