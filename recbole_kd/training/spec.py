"""The student's part of a cell: backbone hyper-parameters, optimisation, distillation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict
from recbole_kd.training.rates import CONSTANT, COURSES, known


class SampledSoftmaxSpec(Strict):
    """Softmax over uniform negatives (``recbole_kd/models/rec_loss.py``)."""

    name: Literal["sampled-softmax"]
    negatives: int = Field(ge=1, description="per step, shared by the batch")
    log_q: bool = Field(description="weigh the negatives as an estimate of the whole catalogue")


class InBatchSpec(Strict):
    """Softmax over the targets of the batch."""

    name: Literal["in-batch"]
    log_q: bool = Field(description="correct for popularity")


class GbceSpec(Strict):
    """Generalised binary cross-entropy."""

    name: Literal["gbce"]
    negatives: int = Field(ge=1, description="per step, shared by the batch")
    calibration: float = Field(ge=0, le=1, description="t of the paper: 0 = plain BCE, 1 = calibrated")


LossSpec = Annotated[SampledSoftmaxSpec | InBatchSpec | GbceSpec, Field(discriminator="name")]


def loss_label(spec: LossSpec) -> str:
    """Words for the protocol of a sampled loss."""
    said = spec.canonical()
    name = said.pop("name")
    return f"{name} ({', '.join(f'{key} {str(value).lower()}' for key, value in said.items())})"


class TrainSpec(Strict):
    """Optimisation, shared by a backbone and its distilled variants (``properties/model``)."""

    learning_rate: float = Field(gt=0)
    learning_rate_schedule: Annotated[str, AfterValidator(known)] = Field(
        CONSTANT, description="key of training.rates.COURSES; over `epochs`"
    )
    weight_decay: float = Field(ge=0)
    train_batch_size: int = Field(ge=1, description="sequences (windows) per step")
    epochs: int = Field(ge=1, description="a limit; a run that reaches it at a constant rate is flagged")
    stopping_step: int = Field(ge=1, description="epochs without a better validation value")
    keep_from: float = Field(
        0.0, ge=0, lt=1, description="share of `epochs` after which an epoch can be the best one"
    )
    valid_metric: str
    clip_grad_norm: float | None
    weight_average: float = Field(
        ge=0, lt=1, description="decay per step of the averaged weights that are validated and kept; 0 = none"
    )
    eval_batch_size: int = Field(ge=1)
    softmax_precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="products of the catalogue softmax; auto = bfloat16 where the processor has it"
    )
    loss: LossSpec | None = Field(None, description="over a part of the catalogue; None = over all of it")

    @model_serializer(mode="wrap")
    def _without_first_choices(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What was the only way once is written, and addressed, as before there was a choice.
        data: dict[str, Any] = handler(self)
        for name, first in (("loss", None), ("learning_rate_schedule", CONSTANT), ("keep_from", 0.0)):
            if data.get(name) == first:
                data.pop(name, None)
        return data

    def rate(self, epoch: int) -> float:
        """Learning rate of ``epoch`` (from 1)."""
        return self.learning_rate * COURSES[self.learning_rate_schedule](epoch, self.epochs)

    @property
    def rate_falls(self) -> bool:
        """Whether the learning rate has a course to run over ``epochs``."""
        return self.learning_rate_schedule != CONSTANT

    @property
    def passed_over(self) -> int:
        """Epochs before the first one that can be kept."""
        return int(round(self.keep_from * self.epochs, 6))  # .29 of 100 are 29, not 28.999

    def refuse_course(self, trainer: str) -> None:
        """Raise for what a ``trainer`` that keeps its rate and may keep every epoch would leave unread.

        Raises
        ------
        SpecError
        """
        if self.rate_falls:
            raise SpecError(
                f"train.learning_rate_schedule: {self.learning_rate_schedule}, but {trainer} keeps its rate; "
                f"set it to {CONSTANT}"
            )
        if self.keep_from:
            raise SpecError(
                f"train.keep_from: {self.keep_from:g}, but {trainer} chooses among all epochs; set it to 0"
            )

    def refuse_average(self, trainer: str) -> None:
        """Raise where a ``trainer`` that keeps no averaged weights is asked to.

        Raises
        ------
        SpecError
        """
        if self.weight_average:
            raise SpecError(
                f"train.weight_average: {self.weight_average:g}, but {trainer} keeps no averaged weights; "
                "set it to 0"
            )

    def ended_by_itself(self, epochs: int, *, patience_spent: bool) -> bool:
        """Whether a training of ``epochs`` was over: its patience was, or its rate had run its course."""
        return patience_spent or epochs < self.epochs or self.rate_falls


class ExpertsSpec(Strict):
    """Distillation experts (``recbole_kd/models/experts.py``)."""

    n_experts: int = Field(ge=1)
    hot: float = Field(gt=0, description="temperature of the gate in the first epoch that distils")
    cold: float = Field(gt=0, description="and in the last one")


class AlsoSpec(Strict):
    """A second objective, over the vectors of the recommender that made the lists of the first."""

    objective: str = Field(description="of kind vectors")
    objective_args: dict[str, Any]
    weight: float = Field(gt=0, description="L_distil = L of the lists + weight * L of the vectors")


class DistillSpec(Strict):
    """What is transferred and how (Severin et al., ECIR 2026).

    Pooling, projection, schedule and objective are four independent choices.
    """

    objective: str
    objective_args: dict[str, Any] = Field(description="parameters of the objective, all of them")
    alpha: float = Field(ge=0, le=1, description="share of the distillation loss in phase 1")
    scale_distil_loss: bool = Field(description="beta = stopgrad(L_rec / L_distil) instead of 1")
    schedule: str = Field(description="key of training.schedules.SCHEDULES")
    distil_epochs: int | None = Field(ge=0, description="epochs of phase 1")
    warm_up_epochs: int = Field(ge=0, description="epochs in which alpha rises, in any schedule")
    fine_tune_epochs: int = Field(ge=0, description="of fine-tune-last")
    alternate_every: int = Field(ge=1, description="k of the alternate schedules")
    reset_optimizer: bool = Field(description="forget Adam's state when distillation is over")
    gradient_conflict: str = Field(description="key of training.gradients.CONFLICTS")
    layer: int | list[int] = Field(description="1..n_layers, or -1 for the backbone's final output")
    layers_joined: str = Field(description="key of models.layers.LAYER_JOINS")
    pooling: str
    pooling_decay: float = Field(description="gamma of exponential pooling, per position")
    pooling_masked: bool = Field(description="false: padding takes part as zeros")
    prefixes: str = Field(description="key of models.prefixes.PREFIXES")
    projection: Literal["student", "teacher", "none", "first"] = Field(
        description="the projected side; first: none, the state's first dimensions are compared"
    )
    projector: str = Field(description="key of models.projections.PROJECTIONS, or experts")
    projector_hidden: int = Field(ge=1, description="width inside an mlp")
    projector_frozen: bool
    experts: ExpertsSpec
    target: str = Field(description="key of models.targets.TARGETS")
    target_shrinkage: float = Field(ge=0, le=1, description="of the covariance in whitened targets")
    several_profiles: str = Field(description="key of models.several.SEVERAL")
    coverage: Literal["profiled", "all"] = Field(description="users that the loss is divided by")
    confidence: str | None = Field(description="file of weights per user")
    confidence_column: str
    also: AlsoSpec | None = Field(None, description="a second objective in the same distillation term")

    @model_serializer(mode="wrap")
    def _without_no_second(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # One objective is written, and addressed, as before there could be two.
        data: dict[str, Any] = handler(self)
        if data.get("also") is None:
            data.pop("also", None)
        return data

    @property
    def layers(self) -> list[int]:
        """The chosen layers."""
        return [self.layer] if isinstance(self.layer, int) else list(self.layer)


class SystemSpec(Strict):
    """A system laid on a backbone (``properties/system``): text initialisation, gates, user tokens."""

    name: str
    params: dict[str, Any]


class PretrainSpec(Strict):
    """Pre-training of a system on the train parts of datasets, before the cell's own training."""

    datasets: list[str] = Field(description="files of properties/dataset; 'self' = the cell's; [] = none")
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(ge=1, description="sequences (windows) per step")
    seed: int = Field(ge=0, description="of pre-training; the seeds of the cells share its result")
    args: dict[str, Any] = Field(description="what only this system knows")


class StudentSpec(Strict):
    """One student: a RecBole class name or its KD form, and everything that trains it."""

    model: str
    hparams: dict[str, Any]
    train: TrainSpec
    distill: DistillSpec | None
    system: SystemSpec | None = None

    @model_serializer(mode="wrap")
    def _without_no_system(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A student without a system is written, and addressed, as before there were any.
        data: dict[str, Any] = handler(self)
        if data.get("system") is None:
            data.pop("system", None)
        return data


class DiagnosticsSpec(Strict):
    """What is measured of the transfer (``diagnostics`` in an experiment); no part of a run's address."""

    enabled: bool
    users: int = Field(ge=20, description="sampled among the train users that have a profile")
    seed: int = Field(description="who is sampled, folds and clusters of the probe")
    k: int = Field(ge=1, description="of retrieval@k and neighbourhood overlap@k")
    folds: int = Field(ge=2, description="of the cross-validated probes")
    clusters: int = Field(ge=2, description="of the profiles; the probe reads them from the state")
    collapse_rank: float = Field(ge=1, description="collapsed if an effective rank falls below this")
    collapse_variance: float = Field(
        gt=0, lt=1, description="collapsed if a variance falls below this share of its start"
    )
