"""When the teacher pulls and how hard. A schedule is one class in one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.models.names import find
from recbole_kd.training.schedules.alternate import AlternateBatches, AlternateEpochs
from recbole_kd.training.schedules.base import Schedule
from recbole_kd.training.schedules.constant import Constant
from recbole_kd.training.schedules.decay import Cosine, Linear
from recbole_kd.training.schedules.fine_tune_last import FineTuneLast
from recbole_kd.training.schedules.two_phase import TwoPhase

if TYPE_CHECKING:
    from recbole_kd.training.spec import DistillSpec

SCHEDULES: dict[str, type[Schedule]] = {
    "two-phase": TwoPhase,
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "fine-tune-last": FineTuneLast,
    "alternate-epochs": AlternateEpochs,
    "alternate-batches": AlternateBatches,
}


def make_schedule(spec: DistillSpec, epochs: int) -> Schedule:
    """Build the schedule that ``spec`` names.

    Parameters
    ----------
    spec : DistillSpec
    epochs : int
        Epoch limit of the run.

    Raises
    ------
    SpecError
        No schedule of that name, or it lacks an end.
    """
    return find(SCHEDULES, spec.schedule, "distill.schedule")(spec, epochs)


__all__ = ["SCHEDULES", "Schedule", "make_schedule"]
