"""Training of a student in sequence mode: recommendation, and distillation where the schedule says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.confidence import load_confidence
from recbole_kd.data.teacher_lists import TeacherLists
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError
from recbole_kd.models.build import build_student
from recbole_kd.models.clusters import as_objective_asks
from recbole_kd.models.cross_entropy import resolve_precision
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.joint_head import JointHead
from recbole_kd.models.mixin import DistillationMixin
from recbole_kd.models.rec_loss import make_rec_loss
from recbole_kd.models.side import SideInputs
from recbole_kd.training.allocator import keep_freed_memory
from recbole_kd.training.diagnostics import Watch
from recbole_kd.training.distributed import Shards
from recbole_kd.training.early_stopping import EarlyStopping
from recbole_kd.training.execution import ExecutionSpec, plain_again
from recbole_kd.training.run import Run
from recbole_kd.training.schedules import Schedule, make_schedule
from recbole_kd.training.spec import DiagnosticsSpec, StudentSpec
from recbole_kd.training.stages import begin_epoch, goes_on

if TYPE_CHECKING:
    from recbole_kd.data.profile_table import ProfileTable

OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """A trained student.

    Attributes
    ----------
    model : RecBole model with its head, at the best validation epoch, in evaluation mode
    state_dict : dict
        Parameters without the head; loads, strict, into the plain RecBole class.
    history : list of dict
        One per epoch: epoch, phase, alpha in force, loss, loss_rec, loss_distil (mean over the steps that
        distil), validation metrics, seconds; ``conflict_share`` and ``gradient_cosine`` where gradients
        are compared.
    best_epoch, epochs : int
        From 1.
    stopped_early : bool
        False if the run met its epoch limit while still improving.
    seconds : dict
        ``train`` and ``valid``, wall clock.
    n_parameters : int
        Of the student without head.
    diagnostics : dict or None
        What was transferred (:meth:`recbole_kd.training.diagnostics.Watch.finish`).
    states : dict of str to Tensor or None
        Users and their states at the end of distillation and at the end.
    """

    model: Any
    state_dict: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    epochs: int
    stopped_early: bool
    seconds: dict[str, float]
    n_parameters: int
    diagnostics: dict[str, Any] | None = None
    states: dict[str, Tensor] | None = None


def fit(
    split: Split,
    spec: StudentSpec,
    profiles: ProfileTable | TeacherLists | None,
    *,
    seed: int,
    device: str,
    max_item_list_length: int,
    on_epoch: OnEpoch | None = None,
    side: SideInputs | None = None,
    diagnostics: DiagnosticsSpec | None = None,
    execution: ExecutionSpec | None = None,
    shards: Shards | None = None,
) -> FitResult:
    """Train one student to early stopping on validation.

    By default in two phases (Severin et al., ECIR 2026): ``distil_epochs`` epochs of L = alpha * beta *
    L_distil + (1 - alpha) * L_rec, then L = L_rec with the optimiser's state kept; see
    :mod:`recbole_kd.training.schedules` for others. Patience counts from the end of distillation; the best
    epoch of either phase is kept. With alpha = 0 there is no distillation, and the run equals the plain
    backbone's, rank for rank.

    Parameters
    ----------
    split : Split
    spec : StudentSpec
    profiles : ProfileTable, TeacherLists or None
        Teacher vectors or lists by user id; None for a plain backbone.
    seed : int
        Training seed: initial weights, batches, masks, dropout. Runs of different methods with the same
        seed share all four.
    device : str
    max_item_list_length : int
    on_epoch : callable, optional
        Called with each row of ``history``.
    side : SideInputs, optional
        Text and profile vectors that the model itself reads (``recbole_kd/baselines``).
    diagnostics : DiagnosticsSpec, optional
        Watch what a distilled student learns of its teacher; changes no number.
    execution : ExecutionSpec, optional
        How the device is used; left out, step by step in float32.
    shards : Shards, optional
        This process's part of every step, in a distributed training.

    Raises
    ------
    SpecError
        If the spec does not fit the backbone or the profiles.
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    keep_freed_memory()
    if shards is not None:
        shards.check(spec)
    with ExitStack() as stack:
        if execution is not None:
            stack.enter_context(execution.in_force())
        return _fit(
            split,
            spec,
            profiles,
            seed,
            device,
            max_item_list_length,
            on_epoch,
            side,
            diagnostics,
            execution,
            shards,
        )


def _fit(
    split: Split,
    spec: StudentSpec,
    profiles: ProfileTable | TeacherLists | None,
    seed: int,
    device: str,
    max_item_list_length: int,
    on_epoch: OnEpoch | None,
    side: SideInputs | None,
    diagnostics: DiagnosticsSpec | None,
    execution: ExecutionSpec | None,
    shards: Shards | None,
) -> FitResult:
    model = build_student(
        spec.model,
        spec.hparams,
        n_items=split.dataset.n_items,
        max_len=max_item_list_length,
        seed=seed,
        device=device,
        system=spec.system,
        side=side or SideInputs(split.dataset.n_users),
    )
    model.softmax_dtype = resolve_precision(spec.train.softmax_precision, device)
    _choose_loss(model, split, spec, seed, device)
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    schedule = _attach(model, split, spec, profiles, seed, device)
    run = Run(model, split, spec, seed, device, max_item_list_length, execution, shards)
    watch = Watch.of(model, split, profiles, diagnostics, max_item_list_length, device)
    stopping = EarlyStopping(spec.train.stopping_step, warm_up=schedule.patience_from if schedule else 0)
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    seconds = {"train": 0.0, "valid": 0.0}
    for epoch in range(1, spec.train.epochs + 1):
        begin = time.perf_counter()
        _anneal(model, spec, epoch)
        row = {"epoch": epoch, **_in_force(schedule, epoch), **begin_epoch(model)}
        row |= run.train_epoch(epoch, schedule)
        middle = time.perf_counter()
        with run.average.in_place():
            row |= run.validate()
            if stopping.update(epoch, row[f"valid_{spec.train.valid_metric.lower()}"]):
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            end = time.perf_counter()
            seen = watch.epoch(epoch, row["phase"]) if watch else {}
        seconds["train"] += middle - begin
        seconds["valid"] += end - middle
        row |= {"seconds": end - begin, **seen}
        history.append(row)
        if on_epoch:
            on_epoch(row)
        if (
            stopping.stop
            and not (schedule and schedule.plateau(epoch))
            and not goes_on(model, best, stopping, epoch)
        ):
            break
        if schedule and epoch >= schedule.last_epoch():
            break
    plain_again(model)
    model.load_state_dict(best)
    model.eval()
    return FitResult(
        model=model,
        state_dict=model.student_state(),
        history=history,
        best_epoch=stopping.best_epoch,
        epochs=len(history),
        stopped_early=stopping.stop or len(history) < spec.train.epochs,
        seconds=seconds,
        n_parameters=n_parameters,
        diagnostics=watch.finish(stopping.best_epoch) if watch else None,
        states=watch.tensors() if watch else None,
    )


def _choose_loss(model: Any, split: Split, spec: StudentSpec, seed: int, device: str) -> None:
    """Give the model the sampled loss that the spec names, with a stream of negatives of its own.

    Raises
    ------
    SpecError
        The model has a loss of its own.
    """
    if spec.train.loss is None:
        return
    if not isinstance(model, DistillationMixin):
        raise SpecError(
            f"train.loss: {spec.train.loss.name}, but {spec.model} has a loss of its own; leave it out."
        )
    negatives = np.random.SeedSequence(seed).spawn(4)[3].generate_state(1, np.uint64)[0]
    counts = torch.from_numpy(split.train_item_counts())
    model.sampled_loss = make_rec_loss(spec.train.loss, counts, int(negatives >> 1), device)


def _anneal(model: Any, spec: StudentSpec, epoch: int) -> None:
    """Tell the head how much of distillation is over when ``epoch`` begins."""
    if spec.distill is not None and isinstance(model.distil_head, DistillationHead | JointHead):
        epochs = spec.distill.distil_epochs or spec.train.epochs
        model.distil_head.anneal((epoch - 1) / max(1, epochs - 1))


def _in_force(schedule: Schedule | None, epoch: int) -> dict[str, Any]:
    """Phase of an epoch and the alpha of its steps that distil."""
    alpha = schedule.alpha(epoch) if schedule else 0.0
    if schedule is None:
        return {"phase": "plain", "alpha": alpha}
    return {"phase": "distil" if alpha > 0 else "fine-tune", "alpha": alpha}


def _attach(
    model: Any,
    split: Split,
    spec: StudentSpec,
    profiles: ProfileTable | TeacherLists | None,
    seed: int,
    device: str,
) -> Schedule | None:
    """Attach the teacher if there is one; return the schedule, or None if no epoch distils."""
    distill = spec.distill
    if profiles is None or distill is None:
        return None
    weight: Any = profiles.mask
    if distill.confidence is not None:
        weight = load_confidence(distill.confidence, distill.confidence_column, split, profiles.mask)
    if isinstance(profiles, TeacherLists):
        lists = torch.from_numpy(profiles.items), torch.from_numpy(profiles.score)
        given = (*lists, torch.from_numpy(weight))
        if distill.also is not None and profiles.vectors is not None:
            states = torch.from_numpy(profiles.vectors.vectors), torch.from_numpy(profiles.vectors.mask)
            model.attach_both(distill, given, states, seed)
        else:
            model.attach_lists(distill, *given, seed)
    else:
        vectors, weight = torch.from_numpy(profiles.vectors), torch.from_numpy(weight)
        model.attach_teacher(distill, *as_objective_asks(distill, vectors, weight), seed)
    model.to(device)
    schedule = make_schedule(distill, spec.train.epochs)
    return None if distill.alpha == 0 or schedule.over(1) else schedule
