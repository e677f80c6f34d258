"""The loop of tuned models: against plain AdamW, killed at every step, other checkpoints refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recbole_kd.baselines.llm.tuned import checkpoint
from recbole_kd.baselines.llm.tuned.loop import Task, Tuned, tune
from recbole_kd.baselines.llm.tuned.spec import TuneSpec
from recbole_kd.errors import StoreError

SPEC = TuneSpec(
    epochs=4,
    batch_size=4,
    micro_batch=4,
    learning_rate=0.05,
    weight_decay=0.1,
    warmup=0.2,
    clip=1.0,
    patience=9,
    save_every=1,
)
X = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randn(10, 1, generator=torch.Generator().manual_seed(2))


class Killed(BaseException):
    pass


def task(dropout: float = 0.3, better: Any = None, dies_at: int | None = None) -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(dropout), nn.Linear(5, 1))
    model[0].bias.requires_grad_(False)
    calls = [0]

    def loss(rows: Any, epoch: int) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == dies_at:
            raise Killed
        return ((model(X[rows]) - Y[rows]) ** 2).mean()

    def value() -> float:
        return -float(((model(X) - Y) ** 2).mean())

    return Task(model, 10, loss, better or value, "loss")


def run(
    made: Task, file: Path, spec: TuneSpec = SPEC, seed: int = 3, fingerprint: str = "f", **more: Any
) -> Tuned:
    return tune(made, spec, seed=seed, file=file, fingerprint=fingerprint, **more)


def weights(made: Task) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.model.parameters()]


def test_equals_adamw_written_out(tmp_path: Path) -> None:
    """Without dropout, every step is AdamW with clipping, warm-up and decay on the seeded order."""
    numbers = iter(range(100))
    made = task(dropout=0.0, better=lambda: float(next(numbers)))
    run(made, tmp_path / "a")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.0), nn.Linear(5, 1))
    model[0].bias.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=0.05, weight_decay=0.1)
    total, warm, step = 12, 2, 0
    for epoch in range(1, 5):
        order = np.random.default_rng([3, epoch]).permutation(10)
        for rows in (order[:4], order[4:8], order[8:]):
            share = (step + 1) / (warm + 1) if step < warm else (total - step) / (total - warm)
            optimiser.param_groups[0]["lr"] = 0.05 * share
            optimiser.zero_grad()
            ((model(X[rows]) - Y[rows]) ** 2).mean().backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            step += 1
    for found, expected in zip(weights(made), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach())


def test_micro_batches_give_the_gradient_of_the_batch(tmp_path: Path) -> None:
    whole, cut = task(dropout=0.0), task(dropout=0.0)
    run(whole, tmp_path / "a")
    run(cut, tmp_path / "b", SPEC.model_copy(update={"micro_batch": 3}))
    for one, other in zip(weights(whole), weights(cut), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dies_at", range(1, 13))
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, dies_at: int) -> None:
    """Whatever step dies, weights, history and best epoch are those of one go, and one step is repeated."""
    whole = task()
    expected = run(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        run(task(dies_at=dies_at), tmp_path / "cut")
    again, counted = task(), [0]

    def loss(rows: Any, epoch: int) -> torch.Tensor:
        counted[0] += 1
        return task_loss(rows, epoch)

    task_loss = again.loss
    found = run(Task(again.model, 10, loss, again.validate, "loss"), tmp_path / "cut")
    assert counted[0] == 12 - (dies_at - 1)
    for one, other in zip(weights(whole), weights(again), strict=True):
        assert torch.equal(one, other)
    kept = ("epoch", "phase", "valid_loss")
    assert [[r[k] for k in kept] for r in found.history] == [[r[k] for k in kept] for r in expected.history]
    assert [r["loss"] for r in found.history[1:]] == [r["loss"] for r in expected.history[1:]]
    assert found.best_epoch == expected.best_epoch


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = task()
    expected = run(first, tmp_path / "a")
    rows: list[Any] = []
    second = task(dies_at=1)
    found = run(second, tmp_path / "a", on_epoch=rows.append)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert found.epochs == expected.epochs == 4
    assert [r["epoch"] for r in rows] == [0, 1, 2, 3, 4]


def test_best_epoch_wins_and_patience_ends(tmp_path: Path) -> None:
    """Row 0 is the model as it is; ties keep the earlier epoch."""
    values = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    made = task(better=lambda: next(values))
    found = run(made, tmp_path / "a", SPEC.model_copy(update={"patience": 2}))
    assert (found.best_epoch, found.epochs, found.stopped_early) == (1, 3, True)
    values = iter([0.5, 0.3, 0.3])
    untouched = task(better=lambda: next(values))
    before = weights(untouched)
    found = run(untouched, tmp_path / "b", SPEC.model_copy(update={"patience": 2}))
    assert found.best_epoch == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(untouched), strict=True))


def test_zero_epochs_leave_the_model(tmp_path: Path) -> None:
    made = task(dies_at=1)
    before = weights(made)
    found = run(made, tmp_path / "a", SPEC.model_copy(update={"epochs": 0}))
    assert found.epochs == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(made), strict=True))


def test_frozen_weights_and_the_global_stream_are_not_touched(tmp_path: Path) -> None:
    made = task()
    frozen = made.model.get_parameter("0.bias").clone()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run(made, tmp_path / "a")
    assert torch.equal(made.model.get_parameter("0.bias"), frozen)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_or_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    run(task(), tmp_path / "a")
    with pytest.raises(StoreError, match="another training; delete it"):
        run(task(), tmp_path / "a", fingerprint="g")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:40])
    with pytest.raises(StoreError, match="damaged checkpoint"):
        run(task(), tmp_path / "a")


def test_a_failed_write_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    checkpoint.save(file, checkpoint.Progress("f"), {"x": torch.ones(2)})
    before = file.read_bytes()
    monkeypatch.setattr(
        "os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StoreError, match="No space left"):
        checkpoint.save(file, checkpoint.Progress("f", epoch=1), {"x": torch.zeros(2)})
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_progress_counts_examples(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run(task(), tmp_path / "a", tell=lambda done, total: told.append((done, total)))
    assert told[0] == (4, 40)
    assert told[-1] == (40, 40)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
