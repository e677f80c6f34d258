"""How a cell's student is trained and ranked: ours in sequence mode, RecBole's own in prefix mode."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

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


def train(
    spec: CellSpec,
    split: Split,
    profiles: ProfileTable | TeacherLists | None,
    side: SideInputs,
    device: str,
    on_epoch: OnEpoch | None,
    scratch: Callable[[], AbstractContextManager[Path]],
    diagnostics: DiagnosticsSpec | None = None,
    kept: Path = Path("cache"),
    fitted: FitResult | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[FitResult, Ranker]:
    """Train the student of a cell.

    Parameters
    ----------
    scratch : callable
        Makes a folder for checkpoints, only where RecBole's Trainer needs one.
    kept : Path
        Folder of checkpoints that an interrupted cell with a language model goes on from.
    fitted : FitResult, optional
        Of a backbone that was trained as a part of a stack.
    checkpoint : Checkpoint, optional
        What an interrupted cell goes on from, where it trains in sequence mode.

    Returns
    -------
    FitResult
    callable
        Ranks the targets of an evaluation set.
    """
    length, batch = spec.dataset.max_item_list_length, spec.student.train.eval_batch_size
    if spec.student.model.startswith(MARK):
        with scratch() as folder:
            plain = fit_prefix(
                split,
                spec.student,
                seed=spec.seed,
                device=device,
                max_item_list_length=length,
                folder=folder,
                on_epoch=on_epoch,
            )
        return plain, lambda part: rank_prefix(
            plain.model, part, max_len=length, batch_size=batch, device=device
        )
    if spec.student.model in COMPUTED:
        from recbole_kd.baselines.run import fit_computed, rank_computed

        computed, scorer = fit_computed(split, spec.student, side=side, on_epoch=on_epoch)
        return computed, lambda part: rank_computed(scorer, part, batch_size=batch)
    if spec.student.model in GENERATIVE:
        from recbole_kd.baselines.run import rank_computed
        from recbole_kd.benchmark.rooms import progress

        module = importlib.import_module(GENERATIVE[spec.student.model])
        said = progress(f"training {spec.student.model}", "examples")
        tuned, scorer = module.fit(
            split, spec.student, seed=spec.seed, device=device, folder=kept, on_epoch=on_epoch, tell=said
        )
        return tuned, lambda part: rank_computed(scorer, part, batch_size=batch, device=device)
    from recbole_kd.benchmark.devices import execution_of
    from recbole_kd.ranking import rank_targets
    from recbole_kd.training.fit import fit

    execution = execution_of(device)
    result = fitted or fit(
        split,
        spec.student,
        profiles,
        seed=spec.seed,
        device=device,
        max_item_list_length=length,
        on_epoch=on_epoch,
        side=side,
        diagnostics=diagnostics,
        execution=execution,
        checkpoint=checkpoint,
    )
    return result, lambda part: rank_targets(
        result.model,
        part,
        max_len=length,
        batch_size=batch,
        device=device,
        memory_mb=execution.eval_memory_mb,
    )
