"""Files of confidences: read by hand, and every way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_kd.data.confidence import load_confidence
from recbole_kd.data.types import Dataset, EvalSet, Sequences, Split
from recbole_kd.errors import ProfileError

MASK = np.array([[False, False], [True, True], [True, False], [False, False]])
ROWS = [("u1", 0, 0.5), ("u1", 1, 0.25), ("NA", 0, 0.0), ("u3", 0, 9.0)]


@pytest.fixture
def split() -> Split:
    none = Sequences(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))
    tokens = np.array(["[PAD]", "u1", "NA", "u3"], object)
    dataset = Dataset("tiny", tokens, tokens, none, np.zeros(0), None, {}, "x")
    nobody = EvalSet(none, np.zeros(0, np.int64))
    return Split(dataset, none, nobody, nobody, "y")


def _write(path, rows=ROWS, **more):
    frame = pd.DataFrame(rows, columns=["user", "profile", "grounding"]).assign(**more)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_by_hand(tmp_path, split, suffix):
    path = _write(tmp_path / f"a{suffix}", teacher="smollm2")
    got = load_confidence(path, "grounding", split, MASK)
    assert got.dtype == np.float32
    assert got.tolist() == [[0, 0], [0.5, 0.25], [0, 0], [0, 0]]  # u3 has no vector


def test_one_profile_per_user_needs_no_profile_column(tmp_path, split):
    path = tmp_path / "a.csv"
    path.write_text("user,trust\nu1,2\nNA,1\n")
    got = load_confidence(path, "trust", split, MASK[:, :1])
    assert got[:, 0].tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([("u1", 0, 0.5), ("u9", 0, 1.0)], "row 1, field user: user 'u9' is not in dataset tiny"),
        ([("u1", 0, float("nan"))], r"row 0, field grounding: nan \(user 'u1'\)"),
        ([("u1", 0, 1.0), ("NA", 0, -1.0)], "row 1, field grounding: -1.0"),
        ([("u1", 0, float("inf"))], "field grounding: inf"),
        ([("u1", 0, 1.0), ("u1", 0, 1.0)], "row 1: user 'u1', profile 0 stands twice"),
        ([("u1", -1, 1.0)], "field profile: -1 is negative"),
        (ROWS[1:], "no row for user 'u1', profile 0"),
        ([(u, p, 0.0) for u, p, _ in ROWS], "0 for every profile"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_wrong_is_named(tmp_path, split, rows, match, suffix):
    path = _write(tmp_path / f"a{suffix}", rows)
    with pytest.raises(ProfileError, match=match):
        load_confidence(path, "grounding", split, MASK)


def test_files_that_cannot_be_used(tmp_path, split):
    with pytest.raises(ProfileError, match="no such file"):
        load_confidence(tmp_path / "no.csv", "grounding", split, MASK)
    with pytest.raises(ProfileError, match="field trust: column is missing; the file has user, profile"):
        load_confidence(_write(tmp_path / "a.csv"), "trust", split, MASK)
    two = _write(tmp_path / "b.csv", teacher=["a", "b", "a", "b"])
    with pytest.raises(ProfileError, match="scores of a, b; audit one teacher per file"):
        load_confidence(two, "grounding", split, MASK)
    (tmp_path / "c.parquet").write_bytes(b"nonsense")
    with pytest.raises(ProfileError, match="not readable"):
        load_confidence(tmp_path / "c.parquet", "grounding", split, MASK)
    (tmp_path / "d.csv").write_text("user,grounding\nu1,much\n")
    with pytest.raises(ProfileError, match="field grounding: nan"):
        load_confidence(tmp_path / "d.csv", "grounding", split, MASK)
