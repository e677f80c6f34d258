"""Every objective, from its default YAML, moves its own loss: much more than a frozen student's head can."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_kd.benchmark import rooms
from recbole_kd.objectives import OBJECTIVES
from tests.students import tiny_split
from tests.training.objective_runs import Taught, course, from_items, taught

EVERY = sorted(OBJECTIVES)
MARGIN = 0.05


def _moves(data: Taught, objective: str, epochs: int, steps: int | None = None) -> None:
    learned = course(data, objective, frozen=False, epochs=epochs, steps=steps)
    frozen = course(data, objective, frozen=True, epochs=epochs, steps=steps)
    assert learned.before == pytest.approx(frozen.before)
    assert np.isfinite(learned.after)
    assert learned.drop > frozen.drop + MARGIN, (learned, frozen)


@pytest.fixture(scope="module")
def tiny() -> Taught:
    split = tiny_split(n_users=80, n_items=40)
    items = np.random.default_rng(0).normal(size=(split.dataset.n_items, 8)).astype(np.float32)
    items[:, :4] += (np.arange(split.dataset.n_items) // 10 == np.arange(4)[:, None]).T * 3.0
    return from_items(split, items, top=5)


@pytest.mark.parametrize("objective", EVERY)
def test_moves_its_loss_on_a_small_catalogue(objective, tiny):
    _moves(tiny, objective, epochs=30)


@pytest.fixture(scope="module")
def ml_100k() -> Taught:
    return taught(rooms.dataset("ml-100k")[0])


@pytest.mark.slow
@pytest.mark.parametrize("objective", EVERY)
def test_moves_its_loss_on_ml_100k(objective, ml_100k):
    _moves(ml_100k, objective, epochs=2)


@pytest.fixture(scope="module")
def beauty(shared_data) -> Taught:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBOLE_KD_DATA", str(shared_data))
        return taught(rooms.dataset("amazon-beauty")[0])


@pytest.mark.slow
@pytest.mark.parametrize("objective", EVERY)
def test_moves_its_loss_on_amazon_beauty(objective, beauty):
    _moves(beauty, objective, epochs=1, steps=40)
