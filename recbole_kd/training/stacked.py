"""Training of several plain students of one shape at once, as one stacked model.

Seeds and cells that differ in optimisation only (learning rate, decay, patience) share every batched product.
Each model keeps its own random streams, its own early stopping and its own best epoch, and equals its solo
run up to the order of sums. On a CPU this brings nothing: one model already fills a core. No checkpoints are
kept: a killed stack begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch, SequenceBatches
from recbole_kd.models.build import BACKBONES, build_student
from recbole_kd.models.cross_entropy import resolve_precision
from recbole_kd.models.side import SideInputs
from recbole_kd.models.stacked import Parameters, StackedBatch, StackedDropout, stacked_losses
from recbole_kd.training.average import WeightAverage
from recbole_kd.training.early_stopping import EarlyStopping
from recbole_kd.training.execution import ExecutionSpec
from recbole_kd.training.fit import FitResult
from recbole_kd.training.run import Streams, validation_metrics
from recbole_kd.training.spec import StudentSpec

OnStackedEpoch = Callable[[int, dict[str, Any]], None]
"""(place of the model, row of its history)"""


def can_stack(spec: StudentSpec) -> bool:
    """Whether a student can be a part of a stack: a plain backbone with the exact loss."""
    plain = spec.distill is None and spec.system is None and spec.train.loss is None
    return plain and spec.model.removesuffix("KD") in BACKBONES


def shape_of(spec: StudentSpec) -> tuple[Any, ...]:
    """Equal for students that can stand in one stack: all but the optimiser's settings."""
    train = spec.train
    hparams = tuple(sorted((k, str(v)) for k, v in spec.hparams.items()))
    shared = (train.train_batch_size, train.eval_batch_size, train.softmax_precision, train.valid_metric)
    return (spec.model, hparams, *shared)


@dataclass
class _Member:
    """One model of the stack."""

    place: int
    spec: StudentSpec
    model: Any
    streams: Streams
    batches: SequenceBatches
    average: WeightAverage
    stopping: EarlyStopping
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "valid": 0.0})


class StackedAdam:
    """Adam (Kingma and Ba, ICLR 2015) with a learning rate, a weight decay and a step count of every model.

    Parameters
    ----------
    parameters : dict of str to [S, ...]
        Changed in place.
    rates, decays : float [S]
    """

    def __init__(self, parameters: Parameters, rates: Sequence[float], decays: Sequence[float]) -> None:
        self.parameters = parameters
        device = next(iter(parameters.values())).device
        self._rates = torch.zeros(len(rates), dtype=torch.float64, device=device)
        self.set_rates(rates)
        self._decays = torch.tensor(decays, dtype=torch.float32, device=device)
        self._steps = torch.zeros(len(rates), dtype=torch.float64, device=device)
        self._first = {k: torch.zeros_like(w) for k, w in parameters.items()}
        self._second = {k: torch.zeros_like(w) for k, w in parameters.items()}

    def set_rates(self, rates: Sequence[float]) -> None:
        """Learning rate of every model from the next step on."""
        self._rates.copy_(torch.tensor(rates, dtype=torch.float64))

    @torch.no_grad()
    def step(self, gradients: Parameters, active: Tensor | None) -> None:
        """One step of the models ``active`` (int64 places; None: all) with their gradients."""
        chosen = slice(None) if active is None else active
        self._steps[chosen] += 1
        steps = self._steps[chosen]
        rate = self._rates[chosen] / (1 - 0.9**steps)
        correction = (1 - 0.999**steps).sqrt()
        for name, weight in self.parameters.items():
            shape = (-1, *[1] * (weight.dim() - 1))
            own = weight if active is None else weight[active]
            gradient = gradients[name] + self._decays[chosen].view(shape) * own
            first = self._first[name] if active is None else self._first[name][active]
            second = self._second[name] if active is None else self._second[name][active]
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = second.sqrt().div_(correction.float().view(shape)).add_(1e-8)
            own.sub_(rate.float().view(shape) * first / scale)
            if active is not None:
                self._first[name][active], self._second[name][active] = first, second
                weight[active] = own


def fit_stacked(
    split: Split,
    specs: Sequence[StudentSpec],
    seeds: Sequence[int],
    *,
    device: str,
    max_item_list_length: int,
    on_epoch: OnStackedEpoch | None = None,
    execution: ExecutionSpec | None = None,
) -> list[FitResult]:
    """Train plain students of one shape at once, each to its own early stopping.

    Parameters
    ----------
    split : Split
    specs : one per model; equal :func:`shape_of`
    seeds : one per model
    device : str
    max_item_list_length : int
    on_epoch : callable, optional
        Called with the model's place and each row of its history.
    execution : ExecutionSpec, optional
        How the device is used, as far as a stack can (:meth:`ExecutionSpec.of_stack`); left out, in float32.

    Returns
    -------
    list of FitResult
        In the order of ``specs``. The seconds of an epoch are shared by the models that took part in it.

    Raises
    ------
    SpecError
        A student has a teacher, a system, a sampled loss or another shape.
    FloatingPointError
        The loss of a model became NaN or infinite.
    """
    for spec in specs:
        if not can_stack(spec):
            raise SpecError(
                f"stack: {spec.model} with a teacher, a system or a sampled loss trains alone; leave it out."
            )
        if shape_of(spec) != shape_of(specs[0]):
            raise SpecError("stack: the students differ in more than rate, decay, patience and seed.")
    with nullcontext() if execution is None else execution.in_force():
        stack = _Stack(split, specs, seeds, device, max_item_list_length, execution)
        stack.train(on_epoch)
        return [_result(m) for m in stack.members]


class _Stack:
    """Members whose weights are views of the stacked parameters."""

    def __init__(
        self,
        split: Split,
        specs: Sequence[StudentSpec],
        seeds: Sequence[int],
        device: str,
        max_len: int,
        execution: ExecutionSpec | None,
    ) -> None:
        self._split, self._device, self._max_len, self._execution = split, device, max_len, execution
        self.members = [self._member(k, *pair) for k, pair in enumerate(zip(specs, seeds, strict=True))]
        names = [name for name, _ in self.members[0].model.named_parameters()]
        own = [dict(m.model.named_parameters()) for m in self.members]
        self._parameters = {n: torch.stack([weights[n].detach() for weights in own]) for n in names}
        for name, stacked in self._parameters.items():
            for place, weights in enumerate(own):
                weights[name].data = stacked[place]
        for member in self.members:
            member.average = WeightAverage(member.model, member.spec.train.weight_average)
        self._adam = StackedAdam(
            self._parameters,
            [s.train.rate(1) for s in specs],
            [s.train.weight_decay for s in specs],
        )
        self._dtype = resolve_precision(specs[0].train.softmax_precision, device)

    def _member(self, place: int, spec: StudentSpec, seed: int) -> _Member:
        model = build_student(
            spec.model,
            spec.hparams,
            n_items=self._split.dataset.n_items,
            max_len=self._max_len,
            seed=seed,
            device=self._device,
            side=SideInputs(self._split.dataset.n_users),
        )
        batches = SequenceBatches(
            self._split.train,
            self._max_len,
            spec.train.train_batch_size,
            shift=model.shift,
            packed=model.packed,
        )
        stopping = EarlyStopping(spec.train.stopping_step, passed_over=spec.train.passed_over)
        average = WeightAverage(model, 0.0)
        return _Member(place, spec, model, Streams.of(seed), batches, average, stopping)

    def train(self, on_epoch: OnStackedEpoch | None) -> None:
        """Train every member to its own end."""
        running, epoch = list(self.members), 0
        while running:
            epoch += 1
            begin = time.perf_counter()
            losses = self.train_epoch(running, epoch)
            spent = (time.perf_counter() - begin) / len(running)
            for member, loss in zip(running, losses, strict=True):
                row = self.finish_epoch(member, epoch, loss, spent)
                if on_epoch:
                    on_epoch(member.place, row)
            running = [m for m in running if not m.stopping.stop and epoch < m.spec.train.epochs]

    def train_epoch(self, running: Sequence[_Member], epoch: int) -> list[float]:
        """One epoch of every running member; returns their mean losses."""
        self._adam.set_rates([m.spec.train.rate(epoch) for m in self.members])
        for member in running:
            member.model.train()
        epochs = [m.batches.epoch(m.streams.batches) for m in running]
        sums = torch.zeros(len(running), dtype=torch.float64, device=self._device)
        counts = [0] * len(running)
        while True:
            drawn = [(k, batch) for k, e in enumerate(epochs) if (batch := next(e, None)) is not None]
            if not drawn:
                break
            members = [running[k] for k, _ in drawn]
            losses = self._step(members, [batch for _, batch in drawn])
            sums[torch.tensor([k for k, _ in drawn], device=self._device)] += losses
            for k, _ in drawn:
                counts[k] += 1
        means = (sums.cpu() / torch.tensor(counts).clamp_min(1)).tolist()
        for member, mean in zip(running, means, strict=True):
            if not torch.isfinite(torch.tensor(mean)):
                raise FloatingPointError(f"the training loss of model {member.place} became {mean}")
        return means

    def _step(self, members: Sequence[_Member], batches: Sequence[Batch]) -> Tensor:
        prepared = [m.model.prepare(b, m.streams.masks) for m, b in zip(members, batches, strict=True)]
        batch = StackedBatch.of(prepared, self._device)
        places = [m.place for m in members]
        active = None
        if len(places) < len(self.members):
            active = torch.tensor(places, device=self._device)
        leaves = {
            name: (w if active is None else w[active]).detach().requires_grad_()
            for name, w in self._parameters.items()
        }
        drop = StackedDropout([m.streams.dropout for m in members])
        execution = self._execution
        with nullcontext() if execution is None else execution.precision(self._device):
            losses = stacked_losses(leaves, members[0].model, batch, drop, self._dtype)
        # An unused parameter (no position of a batch reads it) has no gradient.
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        pairs = zip(leaves.items(), found, strict=True)
        gradients = {k: torch.zeros_like(w) if g is None else g for (k, w), g in pairs}
        self._clip(gradients, members)
        self._adam.step(gradients, active)
        for member in members:
            member.average.update()
        return losses.detach().double()

    def _clip(self, gradients: Parameters, members: Sequence[_Member]) -> None:
        """Clip every model's gradient by its own norm (``torch.nn.utils.clip_grad_norm_``)."""
        limits = [m.spec.train.clip_grad_norm for m in members]
        if all(limit is None for limit in limits):
            return
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        limit = norm.new_tensor([float("inf") if c is None else c for c in limits])
        scale = (limit / (norm + 1e-6)).clamp_max(1.0)
        for gradient in gradients.values():
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))

    def finish_epoch(self, member: _Member, epoch: int, loss: float, spent: float) -> dict[str, Any]:
        """Validate a member, keep its best weights; returns the row of its history."""
        begin = time.perf_counter()
        train = member.spec.train
        with member.average.in_place():
            found = validation_metrics(
                member.model,
                self._split,
                train,
                max_len=self._max_len,
                device=self._device,
                memory_mb=self._execution.eval_memory_mb if self._execution else None,
            )
            if member.stopping.update(epoch, found[f"valid_{train.valid_metric.lower()}"]):
                member.best = {k: v.detach().clone() for k, v in member.model.state_dict().items()}
        valid = time.perf_counter() - begin
        member.seconds["train"] += spent
        member.seconds["valid"] += valid
        row = {"epoch": epoch, "phase": "plain", "alpha": 0.0, "loss": loss, "loss_rec": loss}
        row |= {"loss_distil": float("nan"), **found, "seconds": spent + valid}
        member.history.append(row)
        return row


def _result(member: _Member) -> FitResult:
    model = member.model
    # The kept weights are the member's own, no views of the stack.
    for name, weight in model.named_parameters():
        weight.data = member.best[name]
    model.eval()
    return FitResult(
        model=model,
        state_dict=model.student_state(),
        history=member.history,
        best_epoch=member.stopping.best_epoch,
        epochs=len(member.history),
        stopped_early=member.spec.train.ended_by_itself(
            len(member.history), patience_spent=member.stopping.stop
        ),
        seconds=member.seconds,
        n_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
