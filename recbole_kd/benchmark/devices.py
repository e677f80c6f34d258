"""How trainings run on a kind of device: ``properties/device/<kind>.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_kd.benchmark import properties
from recbole_kd.benchmark.validate import validated

if TYPE_CHECKING:
    from recbole_kd.training.execution import ExecutionSpec


def execution_of(device: str) -> ExecutionSpec:
    """Settings of the kind of ``device`` (``cpu``, ``cuda:0``).

    Raises
    ------
    SpecError
        No such file, or a bad value.
    """
    from recbole_kd.training.execution import ExecutionSpec

    kind = device.partition(":")[0]
    return validated(ExecutionSpec, properties.load("device", kind), f"device '{kind}'")
