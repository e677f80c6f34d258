"""What a spec lays on a backbone before training: a loss over a part of the catalogue, a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_kd.data.confidence import load_confidence
from recbole_kd.data.teacher_lists import TeacherLists
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError
from recbole_kd.models.clusters import as_objective_asks
from recbole_kd.models.mixin import DistillationMixin
from recbole_kd.models.rec_loss import make_rec_loss
from recbole_kd.training.schedules import Schedule, make_schedule
from recbole_kd.training.spec import StudentSpec

if TYPE_CHECKING:
    from recbole_kd.data.profile_table import ProfileTable


def check_average(model: Any, spec: StudentSpec) -> None:
    """Refuse averaged weights for a model that cannot be served with them.

    Raises
    ------
    SpecError
    """
    if not getattr(model, "averaged", True):
        spec.train.refuse_average(spec.model)


def choose_loss(model: Any, split: Split, spec: StudentSpec, seed: int, device: str) -> None:
    """Give the model the sampled loss that the spec names, with a stream of negatives of its own.

    Raises
    ------
    SpecError
        The model has a loss of its own.
    """
    if spec.train.loss is None:
        return
    if not isinstance(model, DistillationMixin) or model.loss_is_its_own:
        raise SpecError(
            f"train.loss: {spec.train.loss.name}, but {spec.model} has a loss of its own; leave it out."
        )
    negatives = np.random.SeedSequence(seed).spawn(4)[3].generate_state(1, np.uint64)[0]
    counts = torch.from_numpy(split.train_item_counts())
    model.sampled_loss = make_rec_loss(spec.train.loss, counts, int(negatives >> 1), device)


def attach(
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
    if getattr(model, "loss_is_its_own", False):
        name = spec.model if spec.system is None else spec.system.name
        raise SpecError(f"distill: {name} has a loss of its own and learns from no teacher; leave it out.")
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
