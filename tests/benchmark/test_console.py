"""The time that a sweep says is left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recbole_kd.benchmark import console
from recbole_kd.benchmark.console import RichReporter
from recbole_kd.benchmark.executor import DONE, EXISTS, Outcome
from recbole_kd.benchmark.plan import Plan
from recbole_kd.benchmark.spec import CellLabel

STATE = SimpleNamespace(
    planned=SimpleNamespace(label=CellLabel(dataset="d", backbone="SASRec", variant="plain", seed=1))
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


def test_the_first_cell_of_several_workers_is_not_taken_for_the_pace_of_all(clock):
    reporter = RichReporter()
    reporter.planned(Plan([]), workers=2)
    with reporter.running(36, 0, None):
        assert reporter._left() is None
        for seconds, left in ((100, 17.0), (100, 16.5), (200, 16.0)):
            clock.at = seconds
            reporter.finished(STATE, Outcome("c", DONE, 100.0), None)
            assert reporter._left() == pytest.approx(left * 100)
        reporter.finished(STATE, Outcome("c", DONE, 100.0), None)
        assert reporter._left() == pytest.approx(200 / 4 * 32)  # four cells in 200 s


def test_the_next_part_of_a_study_begins_anew(clock):
    reporter = RichReporter()
    with reporter.running(8, 0, None):
        for _ in range(8):
            reporter.finished(STATE, Outcome("c", DONE, 1.0), None)
    clock.at = 50
    with reporter.running(8, 0, None):
        clock.at = 60
        reporter.finished(STATE, Outcome("c", DONE, 10.0), None)
        assert reporter._left() == pytest.approx(10 * (7 - 0.5))


def test_cells_of_another_process_say_nothing_of_how_long_one_takes(clock):
    reporter = RichReporter()
    reporter.planned(Plan([]), workers=4)
    with reporter.running(8, 0, 300.0):
        clock.at = 10
        reporter.finished(STATE, Outcome("c", EXISTS), None)
        assert reporter._left() == pytest.approx(290)
