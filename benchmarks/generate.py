"""Write a large artificial dataset as RecBole atomic files, with the YAML that names it.

    python -m benchmarks.generate --out data/generated                # 1e6 users, 1e5 items, 1e7 interactions
    python -m benchmarks.generate --out /tmp/small --users 20000 --items 5000

Every user belongs to a taste, every item too. The next item is, with ``--order`` (.6), the fixed successor of
the present one, else drawn from the taste's items by popularity (Zipf). A sequential model can thus learn it,
and nothing else can. Written are ``<name>.inter`` (in the order of the clock, so that neither users nor times
stand sorted, as in a shop's log) and ``<name>.yaml``, which every ``--dataset`` option takes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

CHUNK = 1 << 20
"""Lines that are written at a time."""

YAML = """\
name: {name}
domain: generic
source: path
path: {folder}
fields: {{user: user_id, item: item_id, rating: null, time: timestamp}}
text: null
filter: {{min_rating: null, min_user_inter: 0, min_item_inter: 0, iterate: true}}
split: {{protocol: leave-one-out, seed: 2026, quantile: 0.8, valid_user_share: 0.2}}
max_item_list_length: {max_len}
"""


def walk(
    lengths: IntArray, n_items: int, n_tastes: int, order: float, rng: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray]:
    """Draw the histories of all users, one position of everybody at a time.

    Parameters
    ----------
    lengths : int64 [n_users]
        Interactions of every user.
    n_items, n_tastes : int
        Item i belongs to taste ``i % n_tastes``.
    order : float
        Probability that the next item is the successor of the present one.
    rng : numpy Generator

    Returns
    -------
    user, item, position : int64 [sum of lengths]
    """
    size = n_items // n_tastes
    popularity = 1.0 / np.arange(1, size + 1)
    cumulated = np.cumsum(popularity / popularity.sum())
    successor = rng.permutation(size)
    taste = rng.integers(n_tastes, size=len(lengths))
    begin = np.cumsum(lengths) - lengths
    user, item, position = (np.empty(int(lengths.sum()), np.int64) for _ in range(3))
    at = np.zeros(len(lengths), np.int64)
    for step in range(int(lengths.max())):
        active = np.flatnonzero(lengths > step)
        drawn = np.searchsorted(cumulated, rng.random(len(active))).clip(max=size - 1)
        follows = (rng.random(len(active)) < order) & (step > 0)
        at[active] = np.where(follows, successor[at[active]], drawn)
        cells = begin[active] + step
        user[cells], position[cells] = active, step
        item[cells] = at[active] * n_tastes + taste[active]
    return user, item, position


def interactions(
    n_users: int, n_items: int, mean_length: float, *, n_tastes: int, order: float, seed: int
) -> tuple[IntArray, IntArray, IntArray]:
    """User, item and time of every interaction, in the order of time.

    Lengths are 4 plus a geometric number, so that leave-one-out evaluates every user.
    """
    rng = np.random.default_rng(seed)
    lengths = 3 + rng.geometric(1.0 / max(1.0, mean_length - 3), n_users)
    user, item, position = walk(lengths.astype(np.int64), n_items, n_tastes, order, rng)
    arrival = rng.integers(0, 1 << 26, n_users)
    time = 1_500_000_000 + arrival[user] + position * 3600
    clock = np.argsort(time, kind="stable")
    return user[clock], item[clock], time[clock]


def _chunks(user: IntArray, item: IntArray, time: IntArray) -> Iterator[pa.RecordBatch]:
    for begin in range(0, len(user), CHUNK):
        rows = slice(begin, begin + CHUNK)
        yield pa.record_batch({"u": user[rows], "i": item[rows], "t": time[rows]})


def write(folder: Path, name: str, columns: tuple[IntArray, IntArray, IntArray], max_len: int) -> Path:
    """Write the atomic file and its YAML; return the YAML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{name}.inter.tmp"
    schema = pa.schema({"u": pa.int64(), "i": pa.int64(), "t": pa.int64()})
    with beside.open("wb") as file:
        file.write(b"user_id:token\titem_id:token\ttimestamp:float\n")
        options = pc.WriteOptions(include_header=False, delimiter="\t")
        with pc.CSVWriter(file, schema, write_options=options) as writer:
            for batch in _chunks(*columns):
                writer.write_batch(batch)
    os.replace(beside, folder / f"{name}.inter")
    path = folder / f"{name}.yaml"
    path.write_text(YAML.format(name=name, folder=folder.resolve(), max_len=max_len), encoding="utf-8")
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--name", default="generated", help="stem of the files")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--mean-length", type=float, default=10.0, help="interactions per user, at least 4")
    parser.add_argument("--tastes", type=int, default=50)
    parser.add_argument("--order", type=float, default=0.6, help="share of items that follow from the last")
    parser.add_argument("--max-len", type=int, default=50, help="max_item_list_length in the YAML")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.items < args.tastes:
        parser.error(f"--items {args.items} is less than --tastes {args.tastes}")
    columns = interactions(
        args.users, args.items, args.mean_length, n_tastes=args.tastes, order=args.order, seed=args.seed
    )
    path = write(args.out, args.name, columns, args.max_len)
    print(f"{len(columns[0]):,} interactions of {args.users:,} users; wrote {path}")


if __name__ == "__main__":
    main()
