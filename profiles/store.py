"""LLM calls are bought once: an SQLite store of calls and of the profiles made of them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from profiles.progress import Progress, tracked
from recbole_kd.errors import StoreError

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
  model TEXT NOT NULL, revision TEXT NOT NULL, decoding TEXT NOT NULL, message TEXT NOT NULL,
  text TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL, price REAL, finish_reason TEXT NOT NULL, written REAL NOT NULL,
  PRIMARY KEY (model, revision, decoding, message)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (
  dataset TEXT NOT NULL, user TEXT NOT NULL, profile INTEGER NOT NULL,
  history_last INTEGER NOT NULL, history_hash TEXT NOT NULL,
  model TEXT NOT NULL, revision TEXT NOT NULL, decoding TEXT NOT NULL, prompt TEXT NOT NULL,
  strategy TEXT NOT NULL, input TEXT NOT NULL,
  text TEXT NOT NULL, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, price REAL, finish_reason TEXT NOT NULL,
  PRIMARY KEY (dataset, user, profile, history_hash, model, revision, decoding, prompt, strategy, input)
);
"""


@dataclass(frozen=True)
class Writer:
    """Who wrote: the part of a key that all profiles of a job share."""

    model: str
    revision: str
    decoding: str
    prompt: str
    strategy: str


@dataclass(frozen=True)
class Call:
    """One answered call; ``message`` is ``Message.digest``, ``price`` in US dollars or None."""

    message: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    price: float | None
    finish_reason: str


@dataclass(frozen=True)
class Profile:
    """One profile text with its provenance.

    Attributes
    ----------
    history_last, history_hash
        The prefix of the user's train sequence that the text was written from.
    input : str
        Digest of the first round of messages: equal input, model and decoding mean equal text.
    calls, prompt_tokens, completion_tokens, seconds, price
        Sums over the calls of this profile.
    """

    dataset: str
    user: str
    profile: int
    history_last: int
    history_hash: str
    model: str
    revision: str
    decoding: str
    prompt: str
    strategy: str
    input: str
    text: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    price: float | None
    finish_reason: str


_SUMMARY = (
    *("dataset", "model", "prompt", "strategy", "users", "profiles", "calls", "prompt_tokens"),
    *("completion_tokens", "seconds", "price", "cut_off", "mean_characters"),
)
PROFILE_COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Profile))


class Store:
    """A profile store in one file.

    SQLite in WAL mode: readers never block, a kill loses only the batch in flight. The store never
    holds a key, an endpoint's address or a prompt.

    Parameters
    ----------
    path : Path
        Made when missing.

    Raises
    ------
    StoreError
        Not a store, a newer format, or not writable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))
            found = self._db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: cannot be used as a profile store ({error})") from error
        if found != str(FORMAT):
            raise StoreError(
                f"{self.path}: store format {found}, this version reads {FORMAT}; use a new file"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def calls(self, writer: Writer, messages: Iterable[str]) -> dict[str, Call]:
        """Answered calls among ``messages`` (digests)."""
        found = {}
        query = (
            "SELECT message, text, prompt_tokens, completion_tokens, seconds, price, finish_reason "
            "FROM calls WHERE model = ? AND revision = ? AND decoding = ? AND message = ?"
        )
        for message in set(messages):
            row = self._db.execute(
                query, (writer.model, writer.revision, writer.decoding, message)
            ).fetchone()
            if row:
                found[message] = Call(*row)
        return found

    def add_calls(self, writer: Writer, calls: Iterable[Call]) -> None:
        """Keep answers, all or none; a call that is already there stays as it is."""
        who = (writer.model, writer.revision, writer.decoding)
        rows = ((*who, *astuple(call), time.time()) for call in calls)
        with self._transaction() as db:
            db.executemany(f"INSERT INTO calls VALUES ({_marks(11)}) ON CONFLICT DO NOTHING", rows)  # noqa: S608 - marks only

    def add_profiles(self, profiles: Iterable[Profile]) -> int:
        """Keep profiles, all or none; return how many were new."""
        rows = (astuple(profile) for profile in profiles)
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                f"INSERT INTO profiles VALUES ({_marks(len(PROFILE_COLUMNS))}) ON CONFLICT DO NOTHING",  # noqa: S608
                rows,
            )
            return db.total_changes - before

    def profiles(self, *, progress: Progress | None = None, **where: Any) -> list[Profile]:
        """Profiles whose columns equal ``where``, by user and profile; ``progress(done, total)`` in rows."""
        unknown = set(where) - set(PROFILE_COLUMNS)
        if unknown:
            raise StoreError(f"unknown column {sorted(unknown)[0]}; use one of {', '.join(PROFILE_COLUMNS)}")
        clause = " AND ".join(f"{name} = ?" for name in where) or "1"
        columns = ", ".join(PROFILE_COLUMNS)
        query = f"SELECT {columns} FROM profiles WHERE {clause} ORDER BY dataset, user, profile"  # noqa: S608
        values = tuple(where.values())
        total = 0
        if progress:
            count = f"SELECT COUNT(*) FROM profiles WHERE {clause}"  # noqa: S608
            total = int(self._db.execute(count, values).fetchone()[0])
        return [Profile(*row) for row in tracked(self._db.execute(query, values), progress, total)]

    def summary(self) -> list[dict[str, Any]]:
        """One line per dataset and writer: users, profiles, tokens, seconds, price."""
        rows = self._db.execute(
            "SELECT dataset, model, prompt, strategy, COUNT(DISTINCT user), COUNT(*), SUM(calls), "
            "SUM(prompt_tokens), SUM(completion_tokens), SUM(seconds), SUM(price), "
            "SUM(finish_reason = 'length'), AVG(LENGTH(text)) "
            "FROM profiles GROUP BY dataset, model, revision, decoding, prompt, strategy ORDER BY 1, 2, 3, 4"
        )
        return [dict(zip(_SUMMARY, row, strict=True)) for row in rows]

    def measured(self, writer: Writer) -> tuple[int, int, float]:
        """Calls, completion tokens and seconds of a model with this decoding, any prompt."""
        row = self._db.execute(
            "SELECT COUNT(*), TOTAL(completion_tokens), TOTAL(seconds) FROM calls "
            "WHERE model = ? AND revision = ? AND decoding = ?",
            (writer.model, writer.revision, writer.decoding),
        ).fetchone()
        return int(row[0]), int(row[1]), float(row[2])

    def spent(self) -> float:
        """US dollars of all calls in this store."""
        return float(self._db.execute("SELECT TOTAL(price) FROM calls").fetchone()[0])

    def check(self) -> list[str]:
        """Problems that SQLite itself or the rows show; empty when sound."""
        found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for row in self._db.execute("SELECT dataset, user, profile FROM profiles WHERE TRIM(text) = ''"):
            found.append(f"dataset {row[0]}, user '{row[1]}', profile {row[2]}: empty text")
        return found


def _marks(n: int) -> str:
    return ", ".join("?" * n)
