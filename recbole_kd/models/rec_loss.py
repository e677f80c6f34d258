"""Recommendation losses that look at a part of the catalogue: cheap steps for large ones.

Without one of them (``train.loss: null``) the loss is exact cross-entropy over all items. A loss is a
function and one line in ``LOSSES``; it is the same for every backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.training.spec import LossSpec

Loss = Callable[[Tensor, Tensor, Tensor, "Tensor | None", "Sampling"], Tensor]


@dataclass
class Sampling:
    """What a sampled loss knows besides the batch.

    Attributes
    ----------
    spec : LossSpec
    log_frequency : float [n_items]
        Logarithm of every item's share of the train targets; -inf where there is none.
    generator : torch.Generator
        Stream of the negatives, of the training seed and nothing else.
    """

    spec: Any
    log_frequency: Tensor
    generator: torch.Generator

    def uniform(self, n_items: int, size: int, device: torch.device) -> Tensor:
        """Negatives shared by a batch, int64 [K]: uniform with replacement, or every item once.

        Every item once where at least so many are asked for; padding never.
        """
        if size >= n_items - 1:
            return torch.arange(1, n_items, device=device)
        return torch.randint(1, n_items, (size,), generator=self.generator, device=device)


@dataclass(frozen=True)
class RecLoss:
    """A loss with its sampler: ``(state [T, E], items [V, E], target [T], bias [V] or None) -> scalar``."""

    loss: Loss
    sampling: Sampling

    def __call__(self, state: Tensor, items: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
        """Mean loss of the batch."""
        return self.loss(state, items, target, bias, self.sampling)

    def state_dict(self) -> dict[str, Any]:
        """State of the stream of negatives."""
        return {"negatives": self.sampling.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the stream where :meth:`state_dict` found it."""
        self.sampling.generator.set_state(state["negatives"])


def _scores(state: Tensor, items: Tensor, bias: Tensor | None, of: Tensor) -> Tensor:
    """Scores of the items ``of`` [K], [T, K]."""
    scores = state @ F.embedding(of, items).t()
    return scores if bias is None else scores + bias[of]


def _own(state: Tensor, items: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    """Score of each position's own target, [T]."""
    score = (state * F.embedding(target, items)).sum(1)
    return score if bias is None else score + bias[target]


def sampled_softmax(
    state: Tensor, items: Tensor, target: Tensor, bias: Tensor | None, sampling: Sampling
) -> Tensor:
    """Softmax over the target and K uniform negatives, shared by the batch.

    With ``log_q`` a negative's score is lowered by log(K q_j), q_j = 1 / (V - 1): the importance weight with
    which the sum over the negatives estimates the sum over the catalogue (Bengio and Senecal, IEEE Trans.
    Neural Networks 19(4), 2008). A negative that is a position's own target does not count for it. With
    every item as a negative the loss is cross-entropy over all items but padding.

    Parameters
    ----------
    state : float [T, E]
    items : float [V, E]
    target : int64 [T]
    bias : float [V] or None
    """
    drawn = sampling.uniform(len(items), sampling.spec.negatives, state.device)
    scores = _scores(state, items, bias, drawn)
    if sampling.spec.log_q:
        scores = scores - math.log(len(drawn) / (len(items) - 1))
    scores = scores.masked_fill(drawn == target[:, None], float("-inf"))
    own = _own(state, items, bias, target)
    return (torch.logaddexp(own, scores.logsumexp(1)) - own).mean()


def in_batch(state: Tensor, items: Tensor, target: Tensor, bias: Tensor | None, sampling: Sampling) -> Tensor:
    """Softmax over the distinct targets of the batch.

    With ``log_q`` every score is lowered by log p_j, p_j the item's share of all train targets, so that
    popular items are not punished for being drawn often (Yi et al., RecSys 2019). Every distinct
    target stands once.

    Parameters
    ----------
    as in :func:`sampled_softmax`
    """
    distinct, place = torch.unique(target, return_inverse=True)
    scores = _scores(state, items, bias, distinct)
    if sampling.spec.log_q:
        scores = scores - sampling.log_frequency.to(scores)[distinct]
    return F.cross_entropy(scores, place)


def gbce(state: Tensor, items: Tensor, target: Tensor, bias: Tensor | None, sampling: Sampling) -> Tensor:
    """L = -1/(K+1) [ beta log sigma(s+) + sum_k log(1 - sigma(s-_k)) ], mean over positions.

    gSASRec's loss (Petrov and Macdonald, RecSys 2023), with :func:`gbce_beta`. The K uniform negatives
    are shared by the batch; one that is a position's own target does not count for it.

    Parameters
    ----------
    as in :func:`sampled_softmax`
    """
    drawn = sampling.uniform(len(items), sampling.spec.negatives, state.device)
    beta = gbce_beta(len(drawn), len(items) - 1, sampling.spec.calibration)
    negative = F.softplus(_scores(state, items, bias, drawn)).masked_fill(drawn == target[:, None], 0.0)
    positive = beta * F.softplus(-_own(state, items, bias, target))
    return ((positive + negative.sum(1)) / (len(drawn) + 1)).mean()


def gbce_beta(negatives: int, n_items: int, calibration: float) -> float:
    """beta = a (t (1 - 1/a) + 1/a) with sampling rate a = K / (n - 1) (Petrov and Macdonald, RecSys 2023).

    ``calibration`` t = 0 gives 1, plain binary cross-entropy; t = 1 gives a, fully calibrated probabilities.
    """
    rate = min(1.0, negatives / max(1, n_items - 1))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


LOSSES: dict[str, Loss] = {"sampled-softmax": sampled_softmax, "in-batch": in_batch, "gbce": gbce}
"""Name in ``train.loss.name`` -> function."""


def make_rec_loss(spec: LossSpec, train_counts: Tensor, seed: int, device: str) -> RecLoss:
    """Bind a loss to the train part and to a stream of negatives.

    Parameters
    ----------
    spec : one of the loss specs of :mod:`recbole_kd.training.spec`
    train_counts : int64 [n_items]
        Train interactions of every item.
    seed : int
    device : str
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    share = train_counts.double() / train_counts.sum().clamp_min(1)
    sampling = Sampling(spec, share.log().float().to(device), generator)
    return RecLoss(LOSSES[spec.name], sampling)


__all__ = ["LOSSES", "RecLoss", "Sampling", "gbce_beta", "make_rec_loss"]
