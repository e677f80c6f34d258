import pytest

from benchmarks.bench_runner import split_wall


def test_wall_time_is_split_at_the_events():
    events = [
        (3.0, {"event": "plan", "workers": 2}),
        (3.1, {"event": "note"}),
        (15.0, {"event": "cell", "seconds": 10.0}),
        (17.0, {"event": "cell", "seconds": 11.0}),
        (26.0, {"event": "cell", "seconds": 10.0}),
        (27.0, {"event": "end"}),
    ]
    shares = split_wall(1.0, 28.0, events)
    assert (shares.wall, shares.before, shares.cells, shares.after) == (27.0, 4.0, 21.0, 2.0)
    assert shares.busy == 15.5
    assert shares.overhead == pytest.approx(11.5 / 15.5)
    assert shares.overhead_between == pytest.approx(7.5 / 15.5)


def test_a_sweep_that_ran_nothing_measures_nothing():
    with pytest.raises(SystemExit, match="no cell ran"):
        split_wall(0.0, 1.0, [(0.5, {"event": "plan", "workers": 2})])
