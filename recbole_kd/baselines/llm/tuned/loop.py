"""The training loop of tuned language models: seeded, resumable to the bit, selected on validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.baselines.llm.tuned import checkpoint
from recbole_kd.baselines.llm.tuned.checkpoint import Progress
from recbole_kd.baselines.llm.tuned.spec import TuneSpec
from recbole_kd.data.types import IntArray

Loss = Callable[[IntArray, int], Tensor]
"""(examples [m], epoch) -> mean loss over them"""
Tell = Callable[[int, int], None]
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes
    ----------
    model : nn.Module
        Parameters with ``requires_grad`` are trained and kept, the others are not touched.
    n_examples : int
    loss : callable
    validate : callable
        Value on the validation part, higher is better.
    metric : str
        Its name in the history.
    """

    model: nn.Module
    n_examples: int
    loss: Loss
    validate: Callable[[], float]
    metric: str


@dataclass(frozen=True)
class Tuned:
    """What came of it; the model holds the weights of the best epoch."""

    history: list[dict[str, Any]]
    best_epoch: int
    epochs: int
    stopped_early: bool
    seconds: dict[str, float]
    n_parameters: int


def tune(
    task: Task,
    spec: TuneSpec,
    *,
    seed: int,
    file: Path,
    fingerprint: str,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    tell: Tell | None = None,
) -> Tuned:
    """Train, going on from ``file`` where it exists.

    The order of an epoch depends on (seed, epoch), dropout on (seed, epoch, step): a training that was killed
    and taken up again gives the weights of an uninterrupted one, and loses at most ``save_every`` steps.
    Validation also stands before the first epoch (row 0 of the history): the model as it is can win.

    Parameters
    ----------
    task : Task
    spec : TuneSpec
    seed : int
    file : Path
        The checkpoint.
    fingerprint : str
        Digest of everything that decides the numbers.
    on_epoch : callable, optional
        Gets every row of the history, also those of before an interruption.
    tell : callable, optional
        ``tell(done, total)`` in examples of the whole training.

    Raises
    ------
    StoreError
        The checkpoint is damaged, of another training, or cannot be written.
    """
    return _Run(task, spec, seed, file, fingerprint, on_epoch, tell).run()


class _Run:
    def __init__(
        self,
        task: Task,
        spec: TuneSpec,
        seed: int,
        file: Path,
        fingerprint: str,
        on_epoch: Callable[[dict[str, Any]], None] | None,
        tell: Tell | None,
    ) -> None:
        self.task, self.spec, self.seed, self.file = task, spec, seed, file
        self.on_epoch, self.tell = on_epoch, tell
        self.trained = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self.steps = -(-task.n_examples // spec.batch_size)
        self.best: dict[str, Tensor] = {}
        self.now = Progress(fingerprint)

    def run(self) -> Tuned:
        found = checkpoint.load(self.file, self.now.fingerprint)
        if found is not None:
            self._restore(*found)
        for row in self.now.history:
            self._say(row)
        if not self.now.history:
            self._close_epoch(0, float("nan"))
        while not self.now.done:
            self._epoch()
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.best[name])
        self.task.model.eval()
        return Tuned(
            history=self.now.history,
            best_epoch=self.now.best_epoch,
            epochs=self.now.epoch,
            stopped_early=self.now.epoch - self.now.best_epoch >= self.spec.patience,
            seconds=self.now.seconds,
            n_parameters=sum(p.numel() for p in self.trained.values()),
        )

    def _epoch(self) -> None:
        epoch, begin = self.now.epoch + 1, time.perf_counter()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.task.n_examples)
        self.task.model.train()
        while self.now.step < self.steps:
            first = self.now.step * self.spec.batch_size
            self.now.loss += self._step(order[first : first + self.spec.batch_size], epoch)
            self.now.step += 1
            if self.tell:
                done = (epoch - 1) * self.task.n_examples + min(first + self.spec.batch_size, len(order))
                self.tell(done, self.spec.epochs * self.task.n_examples)
            if self.now.step % self.spec.save_every == 0 and self.now.step < self.steps:
                self.now.seconds["train"] += time.perf_counter() - begin
                begin = time.perf_counter()
                self._save()
        self.now.seconds["train"] += time.perf_counter() - begin
        self._close_epoch(epoch, self.now.loss / self.task.n_examples)

    def _step(self, rows: IntArray, epoch: int) -> float:
        """One step of AdamW; the sum of the losses of ``rows``."""
        self.optimiser.param_groups[0]["lr"] = self._rate((epoch - 1) * self.steps + self.now.step)
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        with torch.random.fork_rng(_devices(self.trained)):
            torch.manual_seed(
                int(np.random.SeedSequence([self.seed, epoch, self.now.step]).generate_state(1)[0])
            )
            for begin in range(0, len(rows), self.spec.micro_batch):
                part = rows[begin : begin + self.spec.micro_batch]
                loss = self.task.loss(part, epoch)
                (loss * (len(part) / len(rows))).backward()
                total += float(loss.detach()) * len(part)
        if self.spec.clip is not None:
            nn.utils.clip_grad_norm_(list(self.trained.values()), self.spec.clip)
        self.optimiser.step()
        return total

    def _rate(self, step: int) -> float:
        """Linear warm-up over a share of all steps, then linear decay that ends after the last step."""
        total = self.spec.epochs * self.steps
        warm = int(self.spec.warmup * total)
        if step < warm:
            return self.spec.learning_rate * (step + 1) / (warm + 1)
        return self.spec.learning_rate * (total - step) / (total - warm)

    def _close_epoch(self, epoch: int, loss: float) -> None:
        begin = time.perf_counter()
        self.task.model.eval()
        with torch.no_grad():
            value = float(self.task.validate())
        self.now.seconds["valid"] += time.perf_counter() - begin
        if self.now.best_value is None or value > self.now.best_value:
            self.now.best_value, self.now.best_epoch = value, epoch
            self.best = {n: p.detach().clone() for n, p in self.trained.items()}
        row = {"epoch": epoch, "phase": "tune" if epoch else "before tuning", "loss": loss}
        took = sum(self.now.seconds.values()) - sum(earlier["seconds"] for earlier in self.now.history)
        row |= {f"valid_{self.task.metric}": value, "seconds": took}
        self.now.history.append(row)
        self.now.epoch, self.now.step, self.now.loss = epoch, 0, 0.0
        stale = epoch - self.now.best_epoch >= self.spec.patience
        self.now.done = epoch >= self.spec.epochs or stale
        self._save()
        self._say(row)

    def _say(self, row: dict[str, Any]) -> None:
        if self.on_epoch:
            self.on_epoch(row)

    def _save(self) -> None:
        tensors = {f"best.{n}": t for n, t in self.best.items()}
        if not self.now.done:
            tensors |= {f"now.{n}": p for n, p in self.trained.items()}
            for name, parameter in self.trained.items():
                # No step yet: no moments.
                state = self.optimiser.state.get(parameter, {})
                tensors |= {f"{key}.{name}": state[key] for key in _MOMENTS if key in state}
        checkpoint.save(self.file, self.now, tensors)

    def _restore(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        self.now = progress
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.best[name] = tensors[f"best.{name}"].to(parameter.device)
                if not progress.done:
                    parameter.copy_(tensors[f"now.{name}"])
                if f"step.{name}" in tensors:
                    kept = {key: tensors[f"{key}.{name}"] for key in _MOMENTS}
                    # AdamW counts steps on the processor unless it is told otherwise.
                    self.optimiser.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device)
                        for key, value in kept.items()
                    }


def _devices(trained: Mapping[str, nn.Parameter]) -> list[torch.device]:
    return sorted({p.device for p in trained.values() if p.device.type == "cuda"}, key=str)
