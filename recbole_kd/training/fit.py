"""Two-phase training of a student in sequence mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.types import Split
from recbole_kd.metrics import per_user
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.cross_entropy import resolve_precision
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.ranking import rank_targets
from recbole_kd.training.average import WeightAverage
from recbole_kd.training.early_stopping import EarlyStopping
from recbole_kd.training.spec import StudentSpec

if TYPE_CHECKING:
    from recbole_kd.data.profile_table import ProfileTable

REPORTED = ("NDCG@10", "Recall@10")
"""Validation metrics written for every epoch, beside the one that selects."""

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
        One per epoch: epoch, phase, loss, loss_rec, loss_distil, validation metrics, seconds.
    best_epoch, epochs : int
        From 1.
    stopped_early : bool
        False if the run met its epoch limit while still improving.
    seconds : dict
        ``train`` and ``valid``, wall clock.
    n_parameters : int
        Of the student without head.
    """

    model: Any
    state_dict: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    epochs: int
    stopped_early: bool
    seconds: dict[str, float]
    n_parameters: int


def fit(
    split: Split,
    spec: StudentSpec,
    profiles: ProfileTable | None,
    *,
    seed: int,
    device: str,
    max_item_list_length: int,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train one student to early stopping on validation.

    Phase 1 (``distil_epochs`` epochs, only if alpha > 0 and there are profiles): L = alpha * beta *
    L_distil + (1 - alpha) * L_rec. Phase 2: L = L_rec, optimiser state kept (Severin et al., ECIR 2026).
    Patience counts from the start of phase 2; the best epoch of either phase is kept. With alpha = 0 there
    is no phase 1, and the run equals the plain backbone's, rank for rank.

    Parameters
    ----------
    split : Split
    spec : StudentSpec
    profiles : ProfileTable or None
        Teacher vectors by user id; None for a plain backbone.
    seed : int
        Training seed: initial weights, batches, masks, dropout. Runs of different methods with the same
        seed share all four.
    device : str
    max_item_list_length : int
    on_epoch : callable, optional
        Called with each row of ``history``.

    Raises
    ------
    SpecError
        If the spec does not fit the backbone or the profiles.
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    model = build_student(
        spec.model,
        spec.hparams,
        n_items=split.dataset.n_items,
        max_len=max_item_list_length,
        seed=seed,
        device=device,
    )
    model.softmax_dtype = resolve_precision(spec.train.softmax_precision, device)
    n_parameters = sum(p.numel() for p in model.parameters())
    distil_epochs = _attach(model, spec, profiles, seed, device)
    run = _Run(model, split, spec, seed, device, max_item_list_length)
    stopping = EarlyStopping(spec.train.stopping_step, warm_up=distil_epochs)
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    seconds = {"train": 0.0, "valid": 0.0}
    for epoch in range(1, spec.train.epochs + 1):
        distil = epoch <= distil_epochs
        begin = time.perf_counter()
        row: dict[str, Any] = {
            "epoch": epoch,
            "phase": _phase(distil, distil_epochs),
            **run.train_epoch(distil=distil),
        }
        middle = time.perf_counter()
        with run.average.in_place():
            row |= run.validate()
            if stopping.update(epoch, row[f"valid_{spec.train.valid_metric.lower()}"]):
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        end = time.perf_counter()
        seconds["train"] += middle - begin
        seconds["valid"] += end - middle
        row |= {"seconds": end - begin}
        history.append(row)
        if on_epoch:
            on_epoch(row)
        if stopping.stop:
            break
    model.load_state_dict(best)
    model.eval()
    return FitResult(
        model=model,
        state_dict=model.student_state(),
        history=history,
        best_epoch=stopping.best_epoch,
        epochs=len(history),
        stopped_early=stopping.stop,
        seconds=seconds,
        n_parameters=n_parameters,
    )


def _phase(distil: bool, distil_epochs: int) -> str:
    if not distil_epochs:
        return "plain"
    return "distil" if distil else "fine-tune"


def _attach(model: Any, spec: StudentSpec, profiles: ProfileTable | None, seed: int, device: str) -> int:
    """Attach the teacher if there is one; return the number of distillation epochs."""
    if profiles is None or spec.distill is None:
        return 0
    vectors, mask = mean_profile(profiles.vectors, profiles.mask)
    model.attach_teacher(spec.distill, torch.from_numpy(vectors), torch.from_numpy(mask), seed)
    model.to(device)
    return spec.distill.distil_epochs if spec.distill.alpha > 0 else 0


def mean_profile(vectors: Any, mask: Any) -> tuple[Any, Any]:
    """Mean over the K profiles that a user has.

    Parameters
    ----------
    vectors : float32 [N, K, D]
    mask : bool [N, K]

    Returns
    -------
    float32 [N, D], bool [N]
    """
    weight = mask[..., None].astype(np.float32)
    total = np.maximum(weight.sum(1), 1)
    return (np.where(mask[..., None], vectors, 0) * weight).sum(1) / total, mask.any(1)


class _Run:
    """Optimiser, averaged weights, random streams and data of one training."""

    def __init__(
        self, model: Any, split: Split, spec: StudentSpec, seed: int, device: str, max_len: int
    ) -> None:
        self._model, self._split, self._train = model, split, spec.train
        self._device, self._max_len = device, max_len
        batches, masks, dropout = np.random.SeedSequence(seed).spawn(3)
        self._batch_rng = np.random.default_rng(batches)
        self._mask_rng = np.random.default_rng(masks)
        self._dropout = ByteDropout(int(dropout.generate_state(1, np.uint64)[0]))
        self._batches = SequenceBatches(
            split.train, max_len, spec.train.train_batch_size, shift=model.shift, packed=model.packed
        )
        self._optimizer = torch.optim.Adam(
            model.parameters(), lr=spec.train.learning_rate, weight_decay=spec.train.weight_decay, fused=True
        )
        self.average = WeightAverage(model, spec.train.weight_average)

    def train_epoch(self, *, distil: bool) -> dict[str, float]:
        # A RecBole baseline trained before in this process may have left anomaly detection on.
        with torch.autograd.set_detect_anomaly(False):
            return self._train_epoch(distil=distil)

    def _train_epoch(self, *, distil: bool) -> dict[str, float]:
        model, clip = self._model, self._train.clip_grad_norm
        model.train()
        sums = torch.zeros(3, dtype=torch.float64)
        steps = 0
        for batch in self._batches.epoch(self._batch_rng):
            loss_rec, loss_distil = model.sequence_losses(
                batch.to(self._device), self._dropout, self._mask_rng, distil=distil
            )
            loss = model.total_loss(loss_rec, loss_distil)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            self._optimizer.step()
            self.average.update()
            sums[0] += loss.detach()
            sums[1] += loss_rec.detach()
            sums[2] += 0.0 if loss_distil is None else loss_distil.detach()
            steps += 1
        mean = (sums / max(1, steps)).tolist()
        if not np.isfinite(mean).all():
            raise FloatingPointError(
                f"the training loss became {mean[0]} (L_rec {mean[1]}, L_distil {mean[2]})"
            )
        return {"loss": mean[0], "loss_rec": mean[1], "loss_distil": mean[2] if distil else float("nan")}

    def validate(self) -> dict[str, float]:
        ranks = rank_targets(
            self._model,
            self._split.valid,
            max_len=self._max_len,
            batch_size=self._train.eval_batch_size,
            device=self._device,
        )
        names = dict.fromkeys([*REPORTED, self._train.valid_metric])
        return {f"valid_{name.lower()}": float(per_user(ranks.rank, name).mean()) for name in names}
