"""What building a room's part says while it lasts."""

from __future__ import annotations

import time

import pytest

from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.data.load import load_dataset
from recbole_kd.data.split import make_split


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_the_work_done_here(clock, capsys):
    say = rooms.progress("vectors of template", "texts")
    # 60 s for what came before, 400 of 1,000 texts were there; then 10 a second.
    for second, done in ((60, 400), (65, 450), (80, 600), (85, 650)):
        clock[0] = second
        say(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "vectors of template: 400/1000 texts",
        "vectors of template: 600/1000 texts, 40 s left",
    ]


def test_encoding_is_told_of_as_writing_is(place, write_experiment, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(
        rooms, "progress", lambda *what: lambda done, total: said.append((*what, done, total))
    )
    tfidf = {"kind": "tfidf", "model": None, "pooling": None, "max_tokens": None, "dimension": 4}
    taught = {"teacher": "template", "profile": {"encoder": tfidf}}
    write_experiment("told", {"variants": {"plain": {}, "kd": taught}, "controls": "none"})
    cell = next(cell.spec for cell in load_experiment("told").cells if cell.spec.teacher)
    split = make_split(load_dataset(cell.dataset), cell.dataset.split)
    rooms.teacher_table(tmp_path / "r", cell, split)
    assert said[-2:] == [
        ("profiles of template", "users", 30, 30),
        ("vectors of template", "texts", 30, 30),
    ]
