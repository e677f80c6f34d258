"""How a cell's student is trained and ranked: ours in sequence mode, RecBole's own in prefix mode."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.baselines import COMPUTED, GENERATIVE, SERVING
from recbole_kd.benchmark.prefix import MARK, fit_prefix, rank_prefix

if TYPE_CHECKING:
    from recbole_kd.benchmark.spec import CellSpec
    from recbole_kd.data.profile_table import ProfileTable
    from recbole_kd.data.teacher_lists import TeacherLists
    from recbole_kd.data.types import EvalSet, Split
    from recbole_kd.models.side import SideInputs
    from recbole_kd.ranking import Ranks
    from recbole_kd.training.checkpoint import Checkpoint
    from recbole_kd.training.fit import FitResult, OnEpoch
    from recbole_kd.training.spec import DiagnosticsSpec

Ranker = Callable[["EvalSet"], "Ranks"]


def serving_needs(spec: CellSpec) -> str:
    """``nothing``, or what of these: ``vectors`` or ``texts`` of profiles for every user who is served, a
    ``language encoder``, a ``language model``."""
    student = spec.student
    if spec.ranker is not None:
        reads = "" if spec.inputs is None else ", texts"
        return "nothing" if spec.ranker["spec"]["llm"] is None else f"language model{reads}"
    return SERVING.get(student.model if student.system is None else student.system.name, "nothing")


@dataclass(frozen=True)
class Training:
    """How a cell is trained, apart from what it is.

    Attributes
    ----------
    device : str
    on_epoch : callable or None
    scratch : callable
        Makes a folder for checkpoints, only where RecBole's Trainer needs one.
    kept : Path
        Folder of checkpoints that an interrupted cell with a language model goes on from.
    diagnostics : DiagnosticsSpec or None
    fitted : FitResult or None
        Of a backbone that was trained as a part of a stack.
    checkpoint : Checkpoint or None
        What an interrupted cell goes on from, where it trains in sequence mode.
    """

    device: str
    on_epoch: OnEpoch | None
    scratch: Callable[[], AbstractContextManager[Path]]
    kept: Path
    diagnostics: DiagnosticsSpec | None = None
    fitted: FitResult | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Read:
    """What a cell is trained on."""

    split: Split
    profiles: ProfileTable | TeacherLists | None
    side: SideInputs


def train(spec: CellSpec, read: Read, how: Training) -> tuple[FitResult, Ranker]:
    """Train the student of a cell, by whatever trains a model of its kind.

    Returns
    -------
    FitResult
    callable
        Ranks the targets of an evaluation set.
    """
    return _trainer(spec.student.model)(spec, read, how)


def _prefix(spec: CellSpec, read: Read, how: Training) -> tuple[FitResult, Ranker]:
    """A RecBole model under RecBole's own Trainer."""
    length, batch = spec.dataset.max_item_list_length, spec.student.train.eval_batch_size
    with how.scratch() as folder:
        result = fit_prefix(
            read.split,
            spec.student,
            seed=spec.seed,
            device=how.device,
            max_item_list_length=length,
            folder=folder,
            on_epoch=how.on_epoch,
        )
    options: dict[str, Any] = {"max_len": length, "batch_size": batch, "device": how.device}
    return result, lambda part: rank_prefix(result.model, part, **options)


def _computed(spec: CellSpec, read: Read, how: Training) -> tuple[FitResult, Ranker]:
    """A closed form."""
    from recbole_kd.baselines.run import fit_computed, rank_computed

    result, scorer = fit_computed(read.split, spec.student, side=read.side, on_epoch=how.on_epoch)
    batch = spec.student.train.eval_batch_size
    return result, lambda part: rank_computed(scorer, part, batch_size=batch)


def _generative(spec: CellSpec, read: Read, how: Training) -> tuple[FitResult, Ranker]:
    """A model that writes the next item, in the loop of tuned language models."""
    from recbole_kd.baselines.run import rank_computed
    from recbole_kd.benchmark.rooms import progress

    module = importlib.import_module(GENERATIVE[spec.student.model])
    result, scorer = module.fit(
        read.split,
        spec.student,
        seed=spec.seed,
        device=how.device,
        folder=how.kept,
        on_epoch=how.on_epoch,
        tell=progress(f"training {spec.student.model}", "examples"),
    )
    batch = spec.student.train.eval_batch_size
    return result, lambda part: rank_computed(scorer, part, batch_size=batch, device=how.device)


def _sequence(spec: CellSpec, read: Read, how: Training) -> tuple[FitResult, Ranker]:
    """A backbone or system in sequence mode."""
    from recbole_kd.benchmark.devices import execution_of
    from recbole_kd.ranking import rank_targets
    from recbole_kd.training.fit import fit

    length, batch = spec.dataset.max_item_list_length, spec.student.train.eval_batch_size
    execution = execution_of(how.device)
    result = how.fitted or fit(
        read.split,
        spec.student,
        read.profiles,
        seed=spec.seed,
        device=how.device,
        max_item_list_length=length,
        on_epoch=how.on_epoch,
        side=read.side,
        diagnostics=how.diagnostics,
        execution=execution,
        checkpoint=how.checkpoint,
    )
    options: dict[str, Any] = {"max_len": length, "batch_size": batch, "device": how.device}
    options["memory_mb"] = execution.eval_memory_mb
    return result, lambda part: rank_targets(result.model, part, **options)


Trainer = Callable[["CellSpec", Read, Training], "tuple[FitResult, Ranker]"]
TRAINERS: tuple[tuple[Callable[[str], bool], Trainer], ...] = (
    (lambda model: model.startswith(MARK), _prefix),
    (COMPUTED.__contains__, _computed),
    (GENERATIVE.__contains__, _generative),
    (lambda model: True, _sequence),
)
"""Is a model of the kind -> what trains it; the first that fits."""


def _trainer(model: str) -> Trainer:
    return next(trainer for fits, trainer in TRAINERS if fits(model))


def in_sequence_mode(spec: CellSpec) -> bool:
    """Whether a cell's student is trained by :func:`recbole_kd.training.fit.fit`."""
    return spec.ranker is None and _trainer(spec.student.model) is _sequence
