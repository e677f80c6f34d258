"""The student's part of a cell: backbone hyper-parameters, optimisation, distillation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from recbole_kd.strict import Strict


class TrainSpec(Strict):
    """Optimisation, shared by a backbone and its distilled variants (``properties/model``)."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    train_batch_size: int = Field(ge=1, description="sequences (windows) per step")
    epochs: int = Field(ge=1, description="safety limit; a run that reaches it is flagged")
    stopping_step: int = Field(ge=1, description="epochs without a better validation value")
    valid_metric: str
    clip_grad_norm: float | None
    weight_average: float = Field(
        ge=0, lt=1, description="decay per step of the averaged weights that are validated and kept; 0 = none"
    )
    eval_batch_size: int = Field(ge=1)
    softmax_precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="products of the catalogue softmax; auto = bfloat16 where the processor has it"
    )


class DistillSpec(Strict):
    """What is transferred and how (Severin et al., ECIR 2026).

    Pooling, projection, schedule and objective are four independent choices.
    """

    objective: str
    objective_args: dict[str, Any] = Field(description="parameters of the objective, all of them")
    alpha: float = Field(ge=0, le=1, description="share of the distillation loss in phase 1")
    scale_distil_loss: bool = Field(description="beta = stopgrad(L_rec / L_distil) instead of 1")
    distil_epochs: int = Field(ge=0, description="epochs of phase 1")
    layer: int = Field(description="1..n_layers, or -1 for the backbone's final output")
    pooling: str
    pooling_decay: float = Field(description="gamma of exponential pooling, per position")
    projection: Literal["student", "teacher", "none"]
    target: Literal["raw", "standardised", "unit"]


class StudentSpec(Strict):
    """One student: a RecBole class name or its KD form, and everything that trains it."""

    model: str
    hparams: dict[str, Any]
    train: TrainSpec
    distill: DistillSpec | None
