from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from profiles.store import Call, Profile, Store, Writer
from profiles.transfer import export_profiles, import_profiles, read_profiles
from recbole_kd.errors import StoreError

WRITER = Writer("m", "r", "d", "p", "recent")
CALL = Call("k1", "text", 10, 5, 0.5, 0.001, "stop")
PROFILE = Profile(
    "tiny", "u1", 0, 6, "hash", "m", "r", "d", "p", "recent", "k1", "text", 1, 10, 5, 0.5, None, "stop"
)  # fmt: skip


def test_calls_come_back_and_the_first_answer_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add_calls(WRITER, [CALL])
        store.add_calls(WRITER, [replace(CALL, text="other")])
        assert store.calls(WRITER, ["k1", "k2"]) == {"k1": CALL}
        assert store.spent() == pytest.approx(0.001)


@pytest.mark.parametrize("change", [{"model": "x"}, {"revision": "x"}, {"decoding": "x"}])
def test_another_writer_does_not_find_them(tmp_path: Path, change: dict[str, str]) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add_calls(WRITER, [CALL])
        assert store.calls(replace(WRITER, **change), ["k1"]) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"user": "u2"},
        {"history_hash": "h2"},
        {"model": "x"},
        {"revision": "x"},
        {"decoding": "x"},
        {"prompt": "x"},
        {"profile": 1},
        {"dataset": "x"},
    ],
)
def test_one_row_per_user_history_model_decoding_prompt(tmp_path: Path, change: dict[str, str]) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        assert store.add_profiles([PROFILE]) == 1
        assert store.add_profiles([replace(PROFILE, text="again")]) == 0
        assert store.add_profiles([replace(PROFILE, **change)]) == 1
        assert store.profiles(user="u1", history_hash="hash", model="m", dataset="tiny")[0].text == "text"


def test_a_failing_batch_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        bad = replace(CALL, message="k2", text=None)  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            store.add_calls(WRITER, [replace(CALL, message="k1"), bad])
        # The good call of a failing batch is not there either.
        assert store.calls(WRITER, ["k1", "k2"]) == {}


def test_wal_and_reading_while_another_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as writer, Store(path) as reader:
        writer._db.execute("BEGIN IMMEDIATE")
        writer._db.execute("INSERT INTO meta VALUES ('x', 'y')")
        assert reader.profiles() == []
        writer._db.execute("ROLLBACK")
        assert writer._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, certainly not one of ours")
    with pytest.raises(StoreError, match="cannot be used as a profile store"):
        Store(path)
    assert path.read_text().startswith("not a database")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s.sqlite").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path / "s.sqlite")


def test_export_and_import_keep_everything(tmp_path: Path) -> None:
    rows = [PROFILE, replace(PROFILE, user="u2", price=0.25, calls=3, text='ü "quoted"\nline')]
    export_profiles(rows, tmp_path / "p.parquet", {"note": "n"})
    read, manifest = read_profiles(tmp_path / "p.parquet")
    assert read == rows
    assert manifest["note"] == "n"
    with Store(tmp_path / "s.sqlite") as store:
        assert import_profiles(store, read) == 2
        assert import_profiles(store, read) == 0
        assert store.profiles() == rows
        # Only what one call made can stand for that call.
        assert set(store.calls(WRITER, ["k1"])) == {"k1"}


def test_exporting_nothing_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was written"):
        export_profiles([], tmp_path / "p.parquet", {})
    assert not list(tmp_path.iterdir())


def test_import_names_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(StoreError, match="not a file of exported profiles"):
        read_profiles(tmp_path / "p.parquet")


def test_verify_finds_empty_texts(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add_profiles([PROFILE])
        assert store.check() == []
        store.add_profiles([replace(PROFILE, user="u9", text="  ")])
        assert store.check() == ["dataset tiny, user 'u9', profile 0: empty text"]


_WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from profiles.store import Call, Store, Writer
store = Store(Path(sys.argv[1]))
for batch in range(100000):
    calls = [Call(f"{batch}-{i}", "x" * 200, 1, 1, 0.1, None, "stop") for i in range(8)]
    store.add_calls(Writer("m", "r", "d", "p", "recent"), calls)
    if batch == 20:
        print("going", flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(tmp_path: Path, repo_root: Path) -> None:
    path = tmp_path / "s.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(path)],
        cwd=repo_root,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.kill()
    process.wait()
    with Store(path) as store:
        assert store.check() == []
        keys = [row[0] for row in store._db.execute("SELECT message FROM calls")]
    batches = {key.split("-")[0] for key in keys}
    assert len(batches) > 20
    assert len(keys) == 8 * len(batches)
