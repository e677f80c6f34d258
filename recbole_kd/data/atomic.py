"""Reading RecBole atomic files with every problem named by file, line and field.

An atomic file is tab separated UTF-8; its first line types the columns (``user_id:token``).
Nothing is quoted: a ``"`` in a title is a character like any other.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from recbole_kd.errors import DataError

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class AtomicFile:
    """Raw bytes of an atomic file and its parsed header."""

    path: Path
    columns: dict[str, str]
    body: bytes

    def require(self, names: Sequence[str], kind: str) -> None:
        """Raise ``DataError`` unless every column exists and is of type ``kind`` (or its sequence)."""
        for name in names:
            if name not in self.columns:
                raise DataError(
                    f"{self.path}, line 1: no column '{name}'; the file has {', '.join(self.columns)}: "
                    "name the right one in the dataset YAML or add it"
                )
            if self.columns[name] not in (kind, f"{kind}_seq"):
                raise DataError(
                    f"{self.path}, line 1, field {name}: type is '{self.columns[name]}'; "
                    f"write '{name}:{kind}' in the header"
                )

    def lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, fields) of every data line; a line with a wrong field count is an error."""
        if not self.body:
            return
        for number, raw in enumerate(self.body.split(b"\n"), start=2):
            fields = _decode(raw.removesuffix(b"\r"), self.path, number).split("\t")
            if fields == [""] and len(self.columns) > 1:
                raise DataError(f"{self.path}, line {number}: blank line; remove it")
            if len(fields) != len(self.columns):
                raise DataError(
                    f"{self.path}, line {number}: {len(fields)} fields where the header has "
                    f"{len(self.columns)}; separate the fields with one tab each"
                )
            yield number, fields


def open_atomic(path: Path, *, rows: bool = True) -> AtomicFile:
    """Read a file and check its header.

    Parameters
    ----------
    path : Path
    rows : bool
        False: read the first line only; the body is empty.

    Raises
    ------
    DataError
        Missing or empty file, header without types, unknown type, repeated column.
    """
    try:
        with path.open("rb") as file:
            raw = file.read() if rows else file.readline()
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; set path in the dataset YAML (or RECBOLE_KD_DATA) to the folder "
            "that holds it"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend its permissions or name") from None
    head, _, body = raw.removeprefix(BOM).partition(b"\n")
    return AtomicFile(path, parse_header(head, path), body.rstrip(b"\r\n"))


def parse_header(head: bytes, path: Path) -> dict[str, str]:
    """Column -> type of a header line.

    Raises
    ------
    DataError
        No types, an unknown type, a repeated column.
    """
    columns: dict[str, str] = {}
    for field in _decode(head.rstrip(b"\r"), path, 1).split("\t"):
        name, colon, kind = field.rpartition(":")
        if not colon or not name or kind not in FIELD_TYPES:
            raise DataError(
                f"{path}, line 1, field '{field[:60]}': malformed header; write name:type with type one of "
                f"{', '.join(FIELD_TYPES)}, separated by tabs, e.g. user_id:token"
            )
        if name in columns:
            raise DataError(f"{path}, line 1, field {name}: column stands twice; rename or remove one")
        columns[name] = kind
    return columns


def read_interactions(path: Path, user: str, item: str, time: str, rating: str | None) -> pd.DataFrame:
    """Read an ``.inter`` file.

    Returns
    -------
    DataFrame
        Columns ``user``, ``item`` (category), ``time`` (float64) and, if asked for, ``rating``
        (float64), in file order.

    Raises
    ------
    DataError
        Everything that ``open_atomic`` refuses; missing column, blank id, blank or non-numeric
        number, wrong number of fields, no rows.
    """
    from recbole_kd.data.stream import read_frame

    wanted = wanted_columns(user, item, time, rating)
    frame = read_frame(path, wanted)
    if frame is not None:
        return frame
    file = open_atomic(path)
    require_interactions(file, wanted)
    frame = _fast(file, wanted)
    if frame is None:
        _explain(file, wanted)
    return frame


def wanted_columns(user: str, item: str, time: str, rating: str | None) -> dict[str, str]:
    """Column of every role that interactions have; no rating where ``rating`` is None."""
    return {"user": user, "item": item, "time": time} | ({"rating": rating} if rating else {})


def refuse_interactions(path: Path, wanted: Mapping[str, str]) -> NoReturn:
    """Say what is wrong with a file that a reader has refused.

    Raises
    ------
    DataError
        Always; as :func:`read_interactions`.
    """
    file = open_atomic(path)
    require_interactions(file, wanted)
    _explain(file, wanted)


def require_interactions(file: AtomicFile, wanted: Mapping[str, str]) -> None:
    """Check columns and that there are rows; ``wanted`` maps user, item, time (and rating) to columns."""
    require_columns(file, wanted)
    if not file.body:
        raise DataError(f"{file.path}: no rows after the header; add interactions")


def require_columns(file: AtomicFile, wanted: Mapping[str, str]) -> None:
    """Check the columns of interactions and their types."""
    file.require([wanted["user"], wanted["item"]], "token")
    file.require([wanted[key] for key in ("time", "rating") if key in wanted], "float")


def _fast(file: AtomicFile, wanted: Mapping[str, str]) -> pd.DataFrame | None:
    """Read with the C parser; ``None`` when anything at all looks wrong."""
    names = list(file.columns)
    rows = file.body.count(b"\n") + 1
    if file.body.count(b"\t") != rows * (len(names) - 1) or b"\x00" in file.body:
        return None
    numeric = [name for key, name in wanted.items() if key in ("time", "rating")]
    try:
        frame = pd.read_csv(
            io.BytesIO(file.body),
            sep="\t",
            header=None,
            names=names,
            usecols=list(dict.fromkeys(wanted.values())),
            dtype={n: "float64" if n in numeric else "category" for n in wanted.values()},
            na_filter=False,
            quoting=csv.QUOTE_NONE,
            skip_blank_lines=False,
            float_precision="round_trip",
            encoding="utf-8",
        )
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError):
        return None
    if len(frame) != rows:
        return None
    out = pd.DataFrame({key: frame[name] for key, name in wanted.items()})
    finite = all(np.isfinite(out[key].to_numpy()).all() for key in ("time", "rating") if key in out)
    named = all(str(token).strip() for key in ("user", "item") for token in out[key].cat.categories)
    return out if finite and named else None


def _explain(file: AtomicFile, wanted: Mapping[str, str]) -> NoReturn:
    """Find the first bad line and say what is wrong with it."""
    place = {name: i for i, name in enumerate(file.columns)}
    for number, fields in file.lines():
        for key, name in wanted.items():
            value = fields[place[name]]
            where = f"{file.path}, line {number}, field {name}"
            if not value.strip():
                raise DataError(f"{where}: blank; fill it in or remove the line")
            if "\x00" in value:
                raise DataError(f"{where}: holds a NUL byte; save the file as UTF-8 text")
            if key in ("time", "rating") and not _is_number(value):
                raise DataError(f"{where}: '{value[:60]}' is not a number; mend or remove the line")
    raise DataError(f"{file.path}: not a tab separated table; save it as UTF-8 with one tab between fields")


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
