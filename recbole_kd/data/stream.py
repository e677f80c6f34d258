"""Reading an ``.inter`` file block by block on all cores, in memory that does not depend on its length.

Whatever looks odd ends the reading with None: the slow reader of :mod:`recbole_kd.data.atomic` then decides,
and says which line is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from recbole_kd.data.atomic import BOM, parse_header
from recbole_kd.errors import DataError

BLOCK_BYTES = 1 << 24
_TOKENS = pa.dictionary(pa.int32(), pa.string())


class Odd(Exception):
    """The fast reader does not take this file."""


def interaction_batches(
    path: Path, wanted: Mapping[str, str], block_bytes: int = BLOCK_BYTES
) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a file in order.

    Parameters
    ----------
    path : Path
    wanted : mapping
        ``user``, ``item`` (read as dictionaries of strings, one per block), ``time``, ``rating``
        (float64) -> column of the file.
    block_bytes : int
        Of the file that are parsed at a time.

    Raises
    ------
    Odd
        Anything at all looks wrong.
    """
    types = {name: pa.float64() if key in ("time", "rating") else _TOKENS for key, name in wanted.items()}
    columns = _columns(path)
    for key, name in wanted.items():
        kind = "float" if key in ("time", "rating") else "token"
        if columns.get(name) not in (kind, f"{kind}_seq"):
            raise Odd
    try:
        with csv.open_csv(
            path,
            read_options=csv.ReadOptions(skip_rows=1, column_names=list(columns), block_size=block_bytes),
            parse_options=csv.ParseOptions(
                delimiter="\t", quote_char=False, double_quote=False, ignore_empty_lines=False
            ),
            convert_options=csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[],
                strings_can_be_null=False,
            ),
        ) as reader:
            for batch in reader:
                _check(batch)
                yield batch
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise Odd from error


def _columns(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            head = file.readline().removeprefix(BOM)
        return parse_header(head.rstrip(b"\n"), path)
    except (OSError, DataError) as error:
        raise Odd from error


def _check(batch: pa.RecordBatch) -> None:
    """Refuse blank and NUL ids, and numbers that are none."""
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            tokens = column.dictionary
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(tokens)), 0)
            if pc.any(blank).as_py() or pc.any(pc.match_substring(tokens, "\0")).as_py():
                raise Odd
        elif column.null_count or not np.isfinite(column.to_numpy()).all():
            raise Odd


def read_frame(path: Path, wanted: Mapping[str, str]) -> pd.DataFrame | None:
    """Whole file as a frame with the keys of ``wanted`` as columns; None where the file looks odd."""
    try:
        batches = list(interaction_batches(path, wanted))
    except Odd:
        return None
    if not sum(len(batch) for batch in batches):
        return None
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    del batches
    out: dict[str, Any] = {}
    for key, name in wanted.items():
        column = table[name]
        if pa.types.is_dictionary(column.type):
            chunk = column.chunk(0)
            codes = chunk.indices.to_numpy(zero_copy_only=False)
            out[key] = pd.Categorical.from_codes(codes, chunk.dictionary.to_pandas())
        else:
            out[key] = column.to_numpy()
    return pd.DataFrame(out)
