"""Profiles out of a store and into another one, as parquet with their provenance."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from profiles.progress import Progress, tracked
from profiles.store import PROFILE_COLUMNS, Call, Profile, Store, Writer
from recbole_kd.errors import StoreError

MANIFEST_KEY = b"recbole_kd_profiles"
FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"
ROWS = 65_536


def export_profiles(
    profiles: Sequence[Profile], path: Path, manifest: Mapping[str, Any], progress: Progress | None = None
) -> int:
    """Write profile texts to parquet, whole or not at all; return their number.

    ``progress(done, total)`` is told in profiles.

    Raises
    ------
    StoreError
        Nothing to write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not profiles:
        raise StoreError(
            f"{path}: no profiles match, nothing was written; see 'run_benchmark.py profiles stats'"
        )
    columns = {name: [getattr(p, name) for p in profiles] for name in PROFILE_COLUMNS}
    full = {**manifest, "format": FORMAT, "profiles": len(profiles)}
    table = pa.table(columns).replace_schema_metadata(
        {MANIFEST_KEY: json.dumps(full, sort_keys=True).encode()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        with pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
            for start in range(0, len(profiles), ROWS):
                writer.write_table(table.slice(start, ROWS))
                if progress:
                    progress(min(start + ROWS, len(profiles)), len(profiles))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(profiles)


def read_profiles(path: Path, progress: Progress | None = None) -> tuple[list[Profile], dict[str, Any]]:
    """Read exported profiles and their manifest; ``progress(done, total)`` in profiles.

    Raises
    ------
    StoreError
        Missing or foreign file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise StoreError(
            f"{path}: no such file; give a parquet written by 'run_benchmark.py profiles export'"
        )
    try:
        table = pq.read_table(path)
        manifest = json.loads((table.schema.metadata or {})[MANIFEST_KEY])
        parts = table.select(PROFILE_COLUMNS).to_batches(max_chunksize=ROWS)
        rows = (row for part in parts for row in part.to_pylist())
        profiles = [Profile(**row) for row in tracked(rows, progress, len(table))]
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise StoreError(
            f"{path}: not a file of exported profiles ({str(error).splitlines()[0][:120]})"
        ) from error
    return profiles, manifest


def import_profiles(store: Store, profiles: Sequence[Profile], progress: Progress | None = None) -> int:
    """Put profiles into a store; return how many were new.

    ``progress(done, total)`` is told in rows: calls first, then profiles.

    A profile made by one call also answers that call, so that a build over the same histories
    finds it and loads no model.
    """
    by_writer: dict[Writer, list[Call]] = {}
    for p in profiles:
        if p.calls == 1:
            writer = Writer(p.model, p.revision, p.decoding, p.prompt, p.strategy)
            by_writer.setdefault(writer, []).append(
                Call(
                    p.input, p.text, p.prompt_tokens, p.completion_tokens, p.seconds, p.price, p.finish_reason
                )
            )
    done = 0
    total = len(profiles) + sum(map(len, by_writer.values()))
    for writer, calls in by_writer.items():
        store.add_calls(writer, tracked(calls, progress, total, done))
        done += len(calls)
    return store.add_profiles(tracked(profiles, progress, total, done))


def import_shipped(store: Store, dataset: str, writer: Writer) -> int:
    """Put those shipped profiles into a store that are of this dataset and writer."""
    taken = 0
    for path in sorted(SHIPPED.glob(f"{dataset}.*.parquet")):
        profiles, _ = read_profiles(path)
        own = [p for p in profiles if _key(p) == _key(writer)]
        taken += import_profiles(store, [p for p in own if p.dataset == dataset])
    return taken


def holds_shipped(store: Store, dataset: str, writer: Writer) -> bool:
    """Whether a store holds calls that were taken from the shipped profiles and not made here.

    The seconds tell: nobody's own call took as long to the last digit.
    """
    for path in sorted(SHIPPED.glob(f"{dataset}.*.parquet")):
        shipped = [p for p in read_profiles(path)[0] if p.calls == 1 and _key(p) == _key(writer)]
        found = store.calls(writer, [p.input for p in shipped])
        if any((c := found.get(p.input)) and (c.text, c.seconds) == (p.text, p.seconds) for p in shipped):
            return True
    return False


def _key(writer: Writer | Profile) -> tuple[str, str, str, str, str]:
    return writer.model, writer.revision, writer.decoding, writer.prompt, writer.strategy
