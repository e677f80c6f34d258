"""Early stopping by hand."""

from __future__ import annotations

from recbole_kd.training.early_stopping import EarlyStopping


def _run(values, **options):
    stopping = EarlyStopping(**options)
    for epoch, value in enumerate(values, 1):
        stopping.update(epoch, value)
        if stopping.stop:
            return epoch, stopping.best_epoch
    return None, stopping.best_epoch


def test_waits_patience_epochs_after_the_best():
    assert _run([1, 3, 2, 2, 2, 9], patience=3) == (5, 2)
    assert _run([1, 3, 2, 2, 4, 2], patience=3) == (None, 5)


def test_an_equal_value_is_not_better():
    assert _run([3, 3, 3], patience=2) == (3, 1)


def test_never_stops_in_the_warm_up_and_counts_from_its_end():
    assert _run([5, 1, 1, 1, 1, 1, 1], patience=2, warm_up=4) == (6, 1)
    assert _run([5, 1, 1, 1, 1, 6, 1, 1], patience=2, warm_up=4) == (8, 6)


def test_an_epoch_that_is_passed_over_is_neither_best_nor_waited_for():
    assert _run([9, 9, 9, 1, 2, 1, 1], patience=2, passed_over=3) == (7, 5)
    assert _run([9, 1, 1], patience=1, passed_over=2) == (None, 3)
    assert _run([9, 5, 1, 1, 1, 1], patience=2, warm_up=4, passed_over=1) == (6, 2)
