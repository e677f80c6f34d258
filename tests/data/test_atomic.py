from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.data.atomic import open_atomic, read_interactions
from recbole_kd.errors import DataError

HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def read(tmp_path: Path, content: str | bytes, rating: str | None = "rating"):
    path = tmp_path / "x.inter"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_interactions(path, "user_id", "item_id", "timestamp", rating)


@pytest.mark.parametrize(
    ("content", "line", "field", "words"),
    [
        (HEAD + "a\tx\t\t5\n", 2, "rating", "blank"),
        (HEAD + "a\tx\t3\t5\nb\ty\tgood\t6\n", 3, "rating", "'good' is not a number"),
        (HEAD + "a\tx\t3\t5\nb\ty\t4\tnan\n", 3, "timestamp", "'nan' is not a number"),
        (HEAD + "a\tx\t3\tinf\n", 2, "timestamp", "'inf' is not a number"),
        (HEAD + "a\tx\t3\t1e999\n", 2, "timestamp", "not a number"),
        (HEAD + "a\tx\t3\t5\n\ty\t4\t6\n", 3, "user_id", "blank"),
        (HEAD + "a\tx\t3\t5\nb\t  \t4\t6\n", 3, "item_id", "blank"),
        (HEAD + "a\tx\t3\t5\nb\ty\t4\n", 3, None, "3 fields where the header has 4"),
        (HEAD + "a\tx\t3\t5\nb\ty\t4\t6\t7\n", 3, None, "5 fields where the header has 4"),
        (HEAD + "a\tx\t3\t5\n\nb\ty\t4\t6\n", 3, None, "blank line"),
        (HEAD + "a x 3 5\n", 2, None, "1 fields where the header has 4"),
        ("user_id\titem_id\trating\ttimestamp\na\tx\t3\t5\n", 1, "user_id", "malformed header"),
        (
            HEAD.replace("rating:float", "rating:number") + "a\tx\t3\t5\n",
            1,
            "rating:number",
            "malformed header",
        ),
        (HEAD.replace("rating", "user_id") + "a\tx\t3\t5\n", 1, "user_id", "stands twice"),
        (HEAD.replace("timestamp", "when") + "a\tx\t3\t5\n", 1, None, "no column 'timestamp'"),
        (
            HEAD.replace("timestamp:float", "timestamp:token") + "a\tx\t3\t5\n",
            1,
            "timestamp",
            "timestamp:float",
        ),
        (HEAD, None, None, "no rows"),
        ("", 1, None, "malformed header"),
        (HEAD.encode() + b"a\tx\xff\t3\t5\n", 2, None, "not UTF-8"),
        (HEAD + "a\tx\x00\t3\t5\n", 2, "item_id", "NUL"),
    ],
)
def test_bad_input_is_one_line_that_names_the_place(tmp_path, content, line, field, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "x.inter"))
    assert words in message
    if line is not None:
        assert f"line {line}" in message
    if field is not None:
        assert f"field {field}" in message or f"field '{field}" in message


def test_a_shifted_pair_of_lines_does_not_cancel_out(tmp_path):
    with pytest.raises(DataError, match="line 2"):
        read(tmp_path, HEAD + "a\tx\t3\t5\t9\nb\ty\t4\n")


def test_missing_file_says_where_to_look(tmp_path):
    with pytest.raises(DataError, match="RECBOLE_KD_DATA"):
        open_atomic(tmp_path / "absent.inter")
    with pytest.raises(DataError, match="cannot be read"):
        open_atomic(tmp_path)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
def test_windows_habits_change_nothing(tmp_path, bom, ending, tail):
    text = (HEAD + 'a\t"x\t3\t5.25\nNA\tnull\t4\t1e3').replace("\n", ending) + tail.replace("\n", ending)
    frame = read(tmp_path, bom + text.encode())
    assert frame["user"].tolist() == ["a", "NA"]
    assert frame["item"].tolist() == ['"x', "null"]
    assert frame["time"].tolist() == [5.25, 1000.0]


def test_other_columns_may_hold_anything(tmp_path):
    head = "note:token_seq\t" + HEAD
    frame = read(tmp_path, head + "\"quoted, 'odd'\ta\tx\t\t5\n\tb\ty\toops\t6\n", rating=None)
    assert list(frame.columns) == ["user", "item", "time"]
    assert frame["user"].tolist() == ["a", "b"]
