"""Distillation objectives: pure functions ``(student, teacher, weight) -> scalar``.

Nothing here imports torch before an objective is used, so that experiments can be resolved quickly.
"""

from recbole_kd.objectives.registry import OBJECTIVES, Objective, get_objective

__all__ = ["OBJECTIVES", "Objective", "get_objective"]
