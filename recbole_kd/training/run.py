"""One training under way: its streams, batches, optimiser and averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.types import Split
from recbole_kd.metrics import per_user
from recbole_kd.models.batch import Batch, SequenceBatches
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.mixin import DistillationMixin
from recbole_kd.models.resident import on_device
from recbole_kd.random_state import set_stream_state, stream_state
from recbole_kd.ranking import rank_targets
from recbole_kd.training.average import WeightAverage
from recbole_kd.training.distributed import Shards
from recbole_kd.training.execution import ExecutionSpec, compiled
from recbole_kd.training.gradients import Agreement, backward_apart, get_conflict
from recbole_kd.training.schedules import Schedule
from recbole_kd.training.spec import StudentSpec, TrainSpec

REPORTED = ("NDCG@10", "Recall@10")
"""Validation metrics written for every epoch, beside the one that selects."""


@dataclass(frozen=True)
class Streams:
    """Random streams of one training; runs of different methods with the same seed share them."""

    batches: np.random.Generator
    masks: np.random.Generator
    dropout: ByteDropout

    @classmethod
    def of(cls, seed: int) -> Streams:
        """Spawn them from the training seed."""
        batches, masks, dropout = np.random.SeedSequence(seed).spawn(3)
        return cls(
            np.random.default_rng(batches),
            np.random.default_rng(masks),
            ByteDropout(int(dropout.generate_state(1, np.uint64)[0])),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where every stream is."""
        return {
            "batches": stream_state(self.batches),
            "masks": stream_state(self.masks),
            "dropout": self.dropout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the streams where :meth:`state_dict` found them."""
        set_stream_state(self.batches, state["batches"])
        set_stream_state(self.masks, state["masks"])
        self.dropout.load_state_dict(state["dropout"])


class _Agreements:
    """How the two gradients lay to each other, summed on the device over the steps that distil."""

    def __init__(self) -> None:
        self._steps, self._cosine, self._conflict = 0, torch.zeros(()), torch.zeros(())

    def add(self, agreement: Agreement) -> None:
        self._steps += 1
        self._cosine = self._cosine.to(agreement.cosine.device) + agreement.cosine
        self._conflict = self._conflict.to(agreement.conflict.device) + agreement.conflict

    def row(self) -> dict[str, float]:
        """Mean cosine, and share of the steps in which it was negative; NaN if none distilled."""
        n = self._steps or float("nan")
        return {
            "gradient_cosine": float(self._cosine) / n,
            "conflict_share": float(self._conflict) / n,
        }


class Run:
    """Optimiser, averaged weights, random streams and data of one training."""

    def __init__(
        self,
        model: Any,
        split: Split,
        spec: StudentSpec,
        seed: int,
        device: str,
        max_len: int,
        execution: ExecutionSpec | None = None,
        shards: Shards | None = None,
    ) -> None:
        self._model, self._split, self._train = model, split, spec.train
        self._device, self._max_len = device, max_len
        self._streams = streams = Streams.of(seed)
        self._batch_rng, self._mask_rng, self._dropout = streams.batches, streams.masks, streams.dropout
        self._batches = SequenceBatches(
            split.train, max_len, spec.train.train_batch_size, shift=model.shift, packed=model.packed
        )
        distill = spec.distill
        self._resolve = get_conflict(distill.gradient_conflict) if distill else None
        self._reset = distill is not None and distill.reset_optimizer
        head = model.distil_head
        self._own = [] if head is None else [p for p in head.parameters() if p.requires_grad]
        ids = {id(p) for p in ([] if head is None else head.parameters())}
        self._shared = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
        self._optimizer = self._new_optimizer()
        self.average = WeightAverage(model, spec.train.weight_average)
        self._step = 0
        self._execution, self._shards = execution, shards
        # A model with a loop of its own draws from its stream inside the step.
        own_loop = not isinstance(model, DistillationMixin)
        self._at_once = 0 if execution is None or own_loop else execution.resident_steps
        if execution is not None:
            compiled(model, execution)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, but for the model; between two epochs."""
        state = {
            "step": self._step,
            "optimizer": self._optimizer.state_dict(),
            "average": self.average.state_dict(),
            "streams": self._streams.state_dict(),
            # Models with dropout layers of their own draw from it, and so does every one on a GPU.
            "torch": torch.get_rng_state(),
        }
        if self._device.startswith("cuda"):
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave; ``reset_optimizer`` is decided by the epoch that follows."""
        self._step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self._streams.load_state_dict(state["streams"])
        torch.set_rng_state(state["torch"])
        if self._device.startswith("cuda"):
            torch.cuda.set_rng_state(state["cuda"], self._device)

    def _epoch_batches(self) -> Iterator[tuple[Batch, float]]:
        """Batches of an epoch on the device, each with this process's share of its targets."""
        batches = self._batches.epoch(self._batch_rng)
        if self._shards is not None:
            for batch in batches:
                part, share = self._shards.take(self._model.prepare(batch, self._mask_rng))
                for moved in on_device([part], self._device, 1):
                    yield moved, share
        elif self._at_once:
            prepared = (self._model.prepare(batch, self._mask_rng) for batch in batches)
            for batch in on_device(prepared, self._device, self._at_once):
                yield batch, 1.0
        else:
            for batch in batches:
                yield batch.to(self._device), 1.0

    def _losses(self, batch: Batch, *, distil: bool) -> tuple[Tensor, Tensor | None]:
        execution = self._execution
        with nullcontext() if execution is None else execution.precision(self._device):
            if execution is not None and execution.cuda_graphs and execution.compile:
                torch.compiler.cudagraph_mark_step_begin()
            losses: tuple[Tensor, Tensor | None] = self._model.sequence_losses(
                batch, self._dropout, self._mask_rng, distil=distil
            )
        return losses

    def _new_optimizer(self) -> torch.optim.Adam:
        train = self._train
        return torch.optim.Adam(
            self._model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )

    def train_epoch(self, epoch: int, schedule: Schedule | None) -> dict[str, float]:
        if self._reset and schedule and schedule.over(epoch) and not schedule.over(epoch - 1):
            self._optimizer = self._new_optimizer()
        for group in self._optimizer.param_groups:
            group["lr"] = self._train.rate(epoch)
        # A RecBole baseline trained before in this process may have left anomaly detection on.
        with torch.autograd.set_detect_anomaly(False):
            return self._train_epoch(epoch, schedule)

    def _train_epoch(self, epoch: int, schedule: Schedule | None) -> dict[str, float]:
        model, clip = self._model, self._train.clip_grad_norm
        alpha = schedule.alpha(epoch) if schedule else 0.0
        model.train()
        sums, agreed = torch.zeros(3, dtype=torch.float64, device=self._device), _Agreements()
        steps = distilled = 0
        for batch, share in self._epoch_batches():
            distil = schedule is not None and schedule.distils(epoch, self._step)
            loss_rec, loss_distil = self._losses(batch, distil=distil)
            if self._shards is not None:
                loss_rec = loss_rec * share
            loss = self._backward(loss_rec, loss_distil, alpha, agreed)
            if self._shards is not None:
                self._shards.sum_gradients(model.parameters())
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            self._optimizer.step()
            self.average.update()
            sums[0] += loss.detach()
            sums[1] += loss_rec.detach()
            if loss_distil is not None:
                sums[2] += loss_distil.detach()
                distilled += 1
            steps += 1
            self._step += 1
        if self._shards is not None:
            sums = self._shards.sum(sums)
        counts = [max(1, steps), max(1, steps), max(1, distilled)]
        mean = (sums.cpu() / torch.tensor(counts)).tolist()
        if not np.isfinite(mean).all():
            raise FloatingPointError(
                f"the training loss became {mean[0]} (L_rec {mean[1]}, L_distil {mean[2]})"
            )
        row = {"loss": mean[0], "loss_rec": mean[1], "loss_distil": mean[2] if distilled else float("nan")}
        return row | (agreed.row() if self._resolve else {})

    def _backward(
        self, loss_rec: Tensor, loss_distil: Tensor | None, alpha: float, agreed: _Agreements
    ) -> Tensor:
        """Set the gradients of a step; return the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self._model.total_loss(loss_rec, loss_distil, alpha)
        if loss_distil is None or self._resolve is None:
            loss.backward()
            return loss
        rec, distil = self._model.loss_terms(loss_rec, loss_distil, alpha)
        agreed.add(backward_apart(rec, distil, self._shared, self._own, self._resolve))
        return loss

    def validate(self) -> dict[str, float]:
        return validation_metrics(
            self._model,
            self._split,
            self._train,
            max_len=self._max_len,
            device=self._device,
            memory_mb=self._execution.eval_memory_mb if self._execution else None,
        )


def validation_metrics(
    model: Any, split: Split, train: TrainSpec, *, max_len: int, device: str, memory_mb: int | None = None
) -> dict[str, float]:
    """``REPORTED`` and the selecting metric on validation, as the history names them."""
    ranks = rank_targets(
        model,
        split.valid,
        max_len=max_len,
        batch_size=train.eval_batch_size,
        device=device,
        memory_mb=memory_mb,
    )
    names = dict.fromkeys([*REPORTED, train.valid_metric])
    return {f"valid_{name.lower()}": float(per_user(ranks.rank, name).mean()) for name in names}
