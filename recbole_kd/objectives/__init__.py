"""Distillation objectives: pure functions ``(student [B, D], teacher [B, D], mask [B]) -> scalar``."""

from recbole_kd.objectives.registry import OBJECTIVES, get_objective

__all__ = ["OBJECTIVES", "get_objective"]
