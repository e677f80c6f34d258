"""Training of a student in sequence mode: recommendation, and distillation where the schedule says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_kd.data.teacher_lists import TeacherLists
from recbole_kd.data.types import Split
from recbole_kd.models.build import build_student
from recbole_kd.models.cross_entropy import resolve_precision
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.joint_head import JointHead
from recbole_kd.models.side import SideInputs
from recbole_kd.strict import Strict, digest
from recbole_kd.training.allocator import keep_freed_memory
from recbole_kd.training.attach import attach, check_average, choose_loss
from recbole_kd.training.checkpoint import Checkpoint, Keeper, carried, load_carried
from recbole_kd.training.diagnostics import Watch
from recbole_kd.training.distributed import Shards
from recbole_kd.training.early_stopping import EarlyStopping
from recbole_kd.training.execution import ExecutionSpec, plain_again
from recbole_kd.training.run import Run
from recbole_kd.training.schedules import Schedule
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
        False if the run met its epoch limit at a constant rate while still improving.
    seconds : dict
        ``train`` and ``valid``, wall clock.
    n_parameters : int
        Of the student without head.
    diagnostics : dict or None
        What was transferred (:meth:`recbole_kd.training.diagnostics.Watch.finish`).
    states : dict of str to Tensor or None
        Users and their states at the end of distillation and at the end.
    resumed : list of dict
        One per interruption: ``epoch``, the last one taken over from a checkpoint, and who made it.
    seconds_before : float
        The share of ``seconds`` that was spent before the last interruption.
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
    resumed: list[dict[str, Any]] = field(default_factory=list)
    seconds_before: float = 0.0


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
    checkpoint: Checkpoint | None = None,
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
    checkpoint : Checkpoint, optional
        Kept after an epoch; a training that was interrupted goes on from there, and on a CPU ends as if it
        had not been, to the bit. Whoever trained removes the file. Not kept of a distributed training.

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

        asked = _Asked(
            split, spec, profiles, seed, device, max_item_list_length, side, diagnostics, execution, shards
        )
        keeper = None
        if checkpoint is not None and checkpoint.seconds > 0 and shards is None:
            keeper = Keeper(checkpoint, asked.fingerprint())
        training = _Training(asked) if keeper is None else _resumed(keeper, asked)
        while not training.over:
            row = training.next_epoch()
            if on_epoch:
                on_epoch(row)
            training.decide()
            if keeper is not None:
                keeper.offer(training.state_dict)
        return training.result()


@dataclass(frozen=True)
class _Asked:
    """What :func:`fit` was asked for."""

    split: Split
    spec: StudentSpec
    profiles: ProfileTable | TeacherLists | None
    seed: int
    device: str
    max_len: int
    side: SideInputs | None
    diagnostics: DiagnosticsSpec | None
    execution: ExecutionSpec | None
    shards: Shards | None

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers of the training depend on, as far as it has a digest."""
        return {
            "student": self.spec.digest(),
            "seed": self.seed,
            "dataset": self.split.dataset.digest,
            "split": self.split.digest,
            "profiles": None if self.profiles is None else self.profiles.digest,
            **self._read(),
            "max_item_list_length": self.max_len,
            "device": torch.device(self.device).type,
            "diagnostics": None if self.profiles is None else _digest(self.diagnostics),
            "execution": _digest(self.execution, "checkpoint_seconds"),
        }

    def _read(self) -> dict[str, str]:
        """Digests of what the model itself reads; no key without it."""
        digests = {} if self.side is None else self.side.digests or {}
        return {f"inputs.{name}": digest for name, digest in digests.items()}


def _digest(spec: Strict | None, *without: str) -> str | None:
    """Digest of settings but for some keys."""
    return None if spec is None else digest({k: v for k, v in spec.canonical().items() if k not in without})


def _resumed(keeper: Keeper, asked: _Asked) -> _Training:
    """The training that an interrupted process left, or a new one."""
    training, found = _Training(asked), keeper.found()
    if found is None:
        return training
    try:
        training.load_state_dict(found["training"], found["made_by"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        keeper.refuse(f"does not fit ({type(error).__name__})")
        # Half of the file may be in it.
        return _Training(asked)
    keeper.resumed(training.epoch)
    return training


class _Training:
    """A training between two epochs."""

    def __init__(self, asked: _Asked) -> None:
        split, spec, profiles = asked.split, asked.spec, asked.profiles
        seed, device, max_len = asked.seed, asked.device, asked.max_len
        self._spec, self._device = spec, device
        self._model = model = build_student(
            spec.model,
            spec.hparams,
            n_items=split.dataset.n_items,
            max_len=max_len,
            seed=seed,
            device=device,
            system=spec.system,
            side=asked.side or SideInputs(split.dataset.n_users),
        )
        model.softmax_dtype = resolve_precision(spec.train.softmax_precision, device)
        check_average(model, spec)
        choose_loss(model, split, spec, seed, device)
        self._n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._schedule = schedule = attach(model, split, spec, profiles, seed, device)
        self._run = Run(model, split, spec, seed, device, max_len, asked.execution, asked.shards)
        self._watch = Watch.of(model, split, profiles, asked.diagnostics, max_len, device)
        self._stopping = EarlyStopping(
            spec.train.stopping_step,
            warm_up=schedule.patience_from if schedule else 0,
            passed_over=spec.train.passed_over,
        )
        self._history: list[dict[str, Any]] = []
        self._best: dict[str, Tensor] = {}
        self._seconds = {"train": 0.0, "valid": 0.0}
        self._resumed: list[dict[str, Any]] = []
        self._seconds_before = 0.0
        self.over = False

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self._history)

    def next_epoch(self) -> dict[str, Any]:
        """Train and validate; return the row of the history."""
        epoch, begin = self.epoch + 1, time.perf_counter()
        model, run, stopping = self._model, self._run, self._stopping
        _anneal(model, self._schedule, self._spec.train.epochs, epoch)
        row = {"epoch": epoch, **_in_force(self._schedule, epoch), **begin_epoch(model)}
        row |= run.train_epoch(epoch, self._schedule)
        middle = time.perf_counter()
        with run.average.in_place():
            row |= run.validate()
            if stopping.update(epoch, row[f"valid_{self._spec.train.valid_metric.lower()}"]):
                self._best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            end = time.perf_counter()
            seen = self._watch.epoch(epoch, row["phase"]) if self._watch else {}
        self._seconds["train"] += middle - begin
        self._seconds["valid"] += end - middle
        row |= {"seconds": end - begin, **seen}
        self._history.append(row)
        return row

    def decide(self) -> None:
        """Whether the epoch that ended was the last one; schedules and staged models may begin a new part."""
        epoch, schedule, stopping = self.epoch, self._schedule, self._stopping
        spent = (
            stopping.stop
            and not (schedule and schedule.plateau(epoch))
            and not goes_on(self._model, self._best, stopping, epoch)
        )
        last = self._spec.train.epochs
        self.over = spent or epoch >= (min(last, schedule.last_epoch()) if schedule else last)

    def _parts(self) -> dict[str, Any]:
        parts = {"run": self._run, "stopping": self._stopping}
        parts |= {"schedule": self._schedule, "watch": self._watch}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the epochs to come and the result depend on."""
        return {
            "model": self._model.state_dict(),
            "carried": carried(self._model),
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "best": self._best,
            "history": self._history,
            "seconds": self._seconds,
            "resumed": self._resumed,
            "over": self.over,
        }

    def load_state_dict(self, state: dict[str, Any], made_by: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave to ``made_by``."""
        self._model.load_state_dict(state["model"])
        load_carried(self._model, state["carried"])
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self._best = {name: value.to(self._device) for name, value in state["best"].items()}
        self._history, self._seconds, self.over = state["history"], state["seconds"], state["over"]
        self._resumed = [*state["resumed"], {"epoch": self.epoch, **made_by}]
        self._seconds_before = sum(self._seconds.values())

    def result(self) -> FitResult:
        """The model at its best epoch, and what was seen on the way."""
        model, watch, best = self._model, self._watch, self._stopping.best_epoch
        plain_again(model)
        model.load_state_dict(self._best)
        model.eval()
        return FitResult(
            model=model,
            state_dict=model.student_state(),
            history=self._history,
            best_epoch=best,
            epochs=self.epoch,
            stopped_early=self._spec.train.ended_by_itself(self.epoch, patience_spent=self._stopping.stop),
            seconds=self._seconds,
            n_parameters=self._n_parameters,
            diagnostics=watch.finish(best) if watch else None,
            states=watch.tensors() if watch else None,
            resumed=self._resumed,
            seconds_before=self._seconds_before,
        )


def _anneal(model: Any, schedule: Schedule | None, most: int, epoch: int) -> None:
    """Tell the head how much of distillation is over; without an end it lasts ``most`` epochs."""
    if schedule is not None and isinstance(model.distil_head, DistillationHead | JointHead):
        epochs = schedule.end or most
        model.distil_head.anneal((epoch - 1) / max(1, epochs - 1))


def _in_force(schedule: Schedule | None, epoch: int) -> dict[str, Any]:
    """Phase of an epoch and the alpha of its steps that distil."""
    alpha = schedule.alpha(epoch) if schedule else 0.0
    if schedule is None:
        return {"phase": "plain", "alpha": alpha}
    return {"phase": "distil" if alpha > 0 else "fine-tune", "alpha": alpha}
