"""Loading a dataset that does not fit into memory: as :func:`recbole_kd.data.load.load_dataset`, in files.

Ids, tokens and everything per user stay in memory; everything per interaction lies in memory-mapped files,
written and read a stretch at a time. Linear in the interactions: one pass over the text, one over the
numbers to filter, one that scatters them to their users and one that sorts every user's stretch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.data.atomic import refuse_interactions
from recbole_kd.data.load import PAD_TOKEN, content_digest
from recbole_kd.data.scratch import Scratch
from recbole_kd.data.spec import DatasetSpec, FilterSpec
from recbole_kd.data.stream import Odd, interaction_batches
from recbole_kd.data.types import Dataset, IntArray, Sequences
from recbole_kd.errors import DataError

_BLOCK_SHARE = 16
"""The text that is parsed at a time takes so many times its own bytes, columns and workers included."""


@dataclass
class _Raw:
    """Columns of the file; ``user`` and ``item`` are codes in order of first appearance."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    rating: NDArray[np.float64] | None
    user_tokens: list[str]
    item_tokens: list[str]

    def __len__(self) -> int:
        return len(self.user)


class _Codes:
    """Number tokens in order of first appearance over all blocks."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, column: Any) -> NDArray[np.int32]:
        ids = self.ids
        place = np.array([ids.setdefault(t, len(ids)) for t in column.dictionary.to_pylist()], np.int32)
        codes: NDArray[np.int32] = place[column.indices.to_numpy(zero_copy_only=False)]
        return codes


def load_mapped(spec: DatasetSpec) -> Dataset:
    """Read, filter and order a dataset within ``spec.memory``; equal to the one loaded in RAM.

    Raises
    ------
    DataError
        As ``load_dataset``, and where the folder for the files cannot be written.
    """
    assert spec.memory is not None
    scratch = Scratch(spec.memory.folder, spec.memory.budget_mb)
    path = spec.folder() / f"{spec.name}.inter"
    if spec.filter.min_rating is not None and spec.fields.rating is None:
        raise DataError(f"{path}: filter.min_rating needs fields.rating; name the column or set it to null")
    raw = _read(path, spec, scratch)
    counts = {
        "file_users": len(raw.user_tokens),
        "file_items": len(raw.item_tokens),
        "file_interactions": len(raw),
        "time_is_position": int(_is_position(raw, scratch)),
    }
    keep, dropped = _filter(raw, spec.filter, scratch)
    if not any(keep[part].any() for part in _parts(len(raw), scratch)):
        raise DataError(
            f"{path}: the filters keep no interaction; lower min_rating, min_user_inter or min_item_inter"
        )
    users, user_tokens = _first_appearance(raw.user, raw.user_tokens, keep, scratch)
    items, item_tokens = _first_appearance(raw.item, raw.item_tokens, keep, scratch)
    if PAD_TOKEN in user_tokens[1:] or PAD_TOKEN in item_tokens[1:]:
        raise DataError(f"{path}: the id '{PAD_TOKEN}' is reserved for padding; rename it")
    sequences, times, ratings, rows = _grouped(raw, keep, users, items, len(user_tokens), scratch)
    counts |= dropped | {
        "users": len(user_tokens) - 1,
        "items": len(item_tokens) - 1,
        "interactions": len(rows),
    }
    return Dataset(
        name=spec.name,
        user_tokens=user_tokens,
        item_tokens=item_tokens,
        sequences=sequences,
        times=times,
        ratings=ratings,
        counts=counts,
        digest=content_digest(user_tokens, item_tokens, sequences, times, ratings, rows),
        file_rows=rows,
        scratch=scratch,
    )


def _parts(n: int, scratch: Scratch) -> Iterator[slice]:
    for begin in range(0, n, scratch.rows):
        yield slice(begin, min(n, begin + scratch.rows))


def _read(path: Path, spec: DatasetSpec, scratch: Scratch) -> _Raw:
    """Parse the file twice: to count its lines (cheap), then into the arrays."""
    fields = spec.fields
    wanted = {"user": fields.user, "item": fields.item, "time": fields.time}
    wanted |= {"rating": fields.rating} if fields.rating else {}
    block = max(1 << 16, (scratch.budget_mb << 20) // _BLOCK_SHARE)
    n = _lines(path) if path.is_file() else 0
    users, items = _Codes(), _Codes()
    user, item = scratch.empty(n, np.int32), scratch.empty(n, np.int32)
    time = scratch.empty(n, np.float64)
    rating = scratch.empty(n, np.float64) if fields.rating else None
    begin = 0
    try:
        for batch in interaction_batches(path, wanted, min(block, 1 << 24)):
            rows = slice(begin, begin + len(batch))
            user[rows], item[rows] = users(batch.column(fields.user)), items(batch.column(fields.item))
            time[rows] = batch.column(fields.time).to_numpy()
            if rating is not None and fields.rating:
                rating[rows] = batch.column(fields.rating).to_numpy()
            begin = rows.stop
    except Odd:
        _refuse_blank_end(path)
        refuse_interactions(path, wanted)
    if not begin:
        refuse_interactions(path, wanted)
    cut = slice(0, begin)
    return _Raw(
        user[cut],
        item[cut],
        time[cut],
        None if rating is None else rating[cut],
        list(users.ids),
        list(items.ids),
    )


def _refuse_blank_end(path: Path) -> None:
    """The loader in memory passes over blank lines at the end; block by block none is known to be last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        tail = file.read()
    if tail[len(tail.rstrip(b"\r\n")) :].count(b"\n") > 1:
        raise DataError(f"{path}: ends in blank lines; remove them, or 'memory' from the dataset's YAML")


def _lines(path: Path) -> int:
    """Upper bound of the data lines: line ends, the header's included."""
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            count += chunk.count(b"\n")
    return count


def _is_position(raw: _Raw, scratch: Scratch) -> bool:
    """Whether every user's times are 1, 2, 3, ...: each of a user's n numbers must be met, so each once."""
    counts = _bincount(raw.user, None, len(raw.user_tokens), scratch)
    if not (counts > 1).any():
        return False
    offsets = np.r_[0, np.cumsum(counts)]
    met = scratch.empty(len(raw), np.bool_)
    for part in _parts(len(raw), scratch):
        time, user = raw.time[part], raw.user[part]
        if ((time < 1) | (time > counts[user]) | (time != np.floor(time))).any():
            return False
        met[offsets[user] + time.astype(np.int64) - 1] = True
    return all(met[part].all() for part in _parts(len(raw), scratch))


def _bincount(codes: NDArray[np.int32], keep: Any, size: int, scratch: Scratch) -> IntArray:
    total = np.zeros(size, np.int64)
    for part in _parts(len(codes), scratch):
        chosen = codes[part] if keep is None else codes[part][keep[part]]
        total += np.bincount(chosen, minlength=size)
    return total


def _filter(raw: _Raw, spec: FilterSpec, scratch: Scratch) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """As in RAM: the rating first, then users and items at the same time, once or until nothing changes."""
    n = len(raw)
    keep = scratch.empty(n, np.bool_)
    after_rating = 0
    for part in _parts(n, scratch):
        fits = True if spec.min_rating is None or raw.rating is None else raw.rating[part] >= spec.min_rating
        keep[part] = fits
        after_rating += int(keep[part].sum())
    kept, rounds = after_rating, 0
    while spec.min_user_inter > 1 or spec.min_item_inter > 1:
        user_n = _bincount(raw.user, keep, len(raw.user_tokens), scratch)
        item_n = _bincount(raw.item, keep, len(raw.item_tokens), scratch)
        left = 0
        for part in _parts(n, scratch):
            fits = (user_n[raw.user[part]] >= spec.min_user_inter) & (
                item_n[raw.item[part]] >= spec.min_item_inter
            )
            keep[part] &= fits
            left += int(keep[part].sum())
        if left == kept:
            break
        kept = left
        rounds += 1
        if not spec.iterate:
            break
    dropped = {"dropped_by_rating": n - after_rating, "dropped_by_count": after_rating - kept}
    return keep, dropped | {"filter_rounds": rounds}


def _first_appearance(
    codes: NDArray[np.int32], tokens: list[str], keep: NDArray[np.bool_], scratch: Scratch
) -> tuple[IntArray, NDArray[np.object_]]:
    """Code -> id from 1 by first appearance among the kept lines (0: not kept); token of every id."""
    ids = np.zeros(len(tokens), np.int64)
    n = 0
    for part in _parts(len(codes), scratch):
        seen, first = np.unique(codes[part][keep[part]], return_index=True)
        new = ids[seen] == 0
        fresh = seen[new][np.argsort(first[new])]
        ids[fresh] = np.arange(n + 1, n + 1 + len(fresh))
        n += len(fresh)
    named = np.empty(n + 1, dtype=object)
    named[0] = PAD_TOKEN
    kept = np.flatnonzero(ids)
    for code in kept.tolist():
        named[ids[code]] = tokens[code]
    return ids, named


def _grouped(
    raw: _Raw,
    keep: NDArray[np.bool_],
    users: IntArray,
    items: IntArray,
    n_users: int,
    scratch: Scratch,
) -> tuple[Sequences, NDArray[np.float64], NDArray[np.float32] | None, IntArray]:
    """Scatter the kept lines to their users in the file's order, then sort every user's by time."""
    counts = np.zeros(n_users, np.int64)
    for part in _parts(len(raw), scratch):
        counts += np.bincount(users[raw.user[part][keep[part]]], minlength=n_users)
    offsets = np.r_[0, np.cumsum(counts[1:])].astype(np.int64)
    n = int(offsets[-1])
    columns = {"item": scratch.empty(n, np.int64), "time": scratch.empty(n, np.float64)}
    columns["row"] = scratch.empty(n, np.int64)
    if raw.rating is not None:
        columns["rating"] = scratch.empty(n, np.float32)
    fill, line = offsets[:-1].copy(), 0
    for part in _parts(len(raw), scratch):
        chosen = keep[part]
        user = users[raw.user[part][chosen]] - 1
        order = np.argsort(user, kind="stable")
        user = user[order]
        head = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.empty(0, np.int64)
        size = np.diff(np.r_[head, len(user)])
        cell = fill[user] + np.arange(len(user)) - np.repeat(head, size)
        fill[user[head]] += size
        columns["item"][cell] = items[raw.item[part][chosen]][order]
        columns["time"][cell] = raw.time[part][chosen][order]
        columns["row"][cell] = line + order
        if raw.rating is not None:
            columns["rating"][cell] = raw.rating[part][chosen][order]
        line += len(user)
    for some in scratch.ranges(offsets):
        rows = slice(int(offsets[some.start]), int(offsets[some.stop]))
        user = np.repeat(np.arange(some.start, some.stop), np.diff(offsets[some.start : some.stop + 1]))
        order = np.lexsort((columns["time"][rows], user))
        for column in columns.values():
            column[rows] = column[rows][order]
    sequences = Sequences(np.arange(1, n_users, dtype=np.int64), offsets, columns["item"])
    return sequences, columns["time"], columns.get("rating"), columns["row"]
