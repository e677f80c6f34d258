"""Simulated cold start: ranks of a trained student that is shown only the last k items of each history.

``<results>/cache/last-k/<cell>.parquet``, derived from a run directory and never part of it: ``last_k``
(int32), ``user``, ``item`` (tokens), ``rank``, ``rank_masked`` (float32), test part only. What is masked is
what is shown: to the system the user is new.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from recbole_kd.benchmark.artefacts import read_split, split_file, write_bytes_atomic
from recbole_kd.benchmark.derived import KEY, made_from, state_of
from recbole_kd.benchmark.extras.plan import done_runs, read_plan, results_of
from recbole_kd.data.types import EvalSet, Sequences, Split
from recbole_kd.errors import UserError

FOLDER = ("cache", "last-k")
Progress = Callable[[int, int], None]


def shorten(part: EvalSet, k: int) -> EvalSet:
    """The same targets after the last ``k`` items of every history (or all of it, where it is shorter)."""
    history = part.history
    lengths = np.minimum(history.lengths, k)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begin = history.offsets[1:] - lengths
    places = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
    return EvalSet(Sequences(history.users, offsets, history.items[places]), part.targets)


def write_last_k(folder: Path, ks: Sequence[int], progress: Progress | None = None) -> list[Path]:
    """Rank the test targets of every run of an experiment after the last k items, for every k.

    Runs whose file has every k already are passed over, and so are models that are not read from here
    (RecBole's own under its Trainer).
    """
    plan, paths = read_plan(folder), []
    splits: dict[str, Split] = {}
    runs = list(dict.fromkeys(run for _, run in done_runs(folder, plan)))
    for number, run in enumerate(runs):
        path = results_of(folder).joinpath(*FOLDER, f"{run.name}.parquet")
        if not (made_from(path, run) and _has(path, ks)):
            made = _rank(results_of(folder), run, ks, splits)
            if made is None:
                continue
            write_bytes_atomic(path, made)
        paths.append(path)
        if progress:
            progress(number + 1, len(runs))
    return paths


def _has(path: Path, ks: Sequence[int]) -> bool:
    import pyarrow.parquet as pq

    found = pq.read_table(path, columns=["last_k"])["last_k"].unique().to_pylist()
    return set(ks) <= set(found)


def _rank(results: Path, run: Path, ks: Sequence[int], splits: dict[str, Split]) -> bytes | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recbole_kd.ranking import rank_targets
    from recbole_kd.serving.student import load_student

    try:
        trained = load_student(run)
    except UserError:
        return None
    path = split_file(results, trained.spec)
    split = splits.setdefault(path.name, read_split(path))
    batch, tables = trained.spec.student.train.eval_batch_size, []
    for k in sorted(set(ks)):
        part = shorten(split.test, k)
        ranks = rank_targets(trained.model, part, max_len=trained.max_len, batch_size=batch)
        tables.append(
            pa.table(
                {
                    "last_k": pa.array(np.full(len(part), k), pa.int32()),
                    "user": split.dataset.user_tokens[part.history.users].astype(str),
                    "item": split.dataset.item_tokens[part.targets].astype(str),
                    "rank": pa.array(ranks.rank, pa.float32()),
                    "rank_masked": pa.array(ranks.rank_masked, pa.float32()),
                }
            )
        )
    buffer = io.BytesIO()
    table = pa.concat_tables(tables).replace_schema_metadata({KEY: state_of(run)})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
