"""Pooling of hidden states into one vector per piece of history: h_u = sum_t w_t H[t].

Severin et al. (ECIR 2026) pool over the padded row; here padding never takes part. Each function returns
the unnormalised log-weight of every token; the weights of a piece sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Tokens:
    """The real (not padded) positions of a batch, flat.

    Attributes
    ----------
    hidden : float [T, H]
    piece : int64 [T]
        Piece of every token, 0..P-1.
    age : int64 [T]
        Distance to the last position of the piece; 0 is the newest item.
    n_pieces : int
    """

    def __init__(self, hidden: Tensor, segment: Tensor, position: Tensor, length: Tensor) -> None:
        real = segment < len(length)
        self.hidden = hidden[real]
        self.piece = segment[real]
        self.age = length[self.piece] - 1 - position[real]
        self.n_pieces = len(length)


LogWeight = Callable[[Tokens, float, nn.Linear | None], Tensor]


def _mean(tokens: Tokens, decay: float, scorer: nn.Linear | None) -> Tensor:
    return torch.zeros(len(tokens.piece), dtype=tokens.hidden.dtype, device=tokens.hidden.device)


def _exponential(tokens: Tokens, decay: float, scorer: nn.Linear | None) -> Tensor:
    return -decay * tokens.age.to(tokens.hidden.dtype)


def _attention(tokens: Tokens, decay: float, scorer: nn.Linear | None) -> Tensor:
    if scorer is None:
        raise ValueError("attention pooling needs a learned scorer")
    return scorer(tokens.hidden).squeeze(-1)


def _last(tokens: Tokens, decay: float, scorer: nn.Linear | None) -> Tensor:
    return torch.where(tokens.age == 0, 0.0, float("-inf")).to(tokens.hidden.dtype)


POOLINGS: dict[str, LogWeight] = {
    "mean": _mean,
    "exponential": _exponential,
    "attention": _attention,
    "last": _last,
}
"""name -> log-weight of every token; a new pooling is one function and one line here."""


def pool(tokens: Tokens, name: str, *, decay: float, scorer: nn.Linear | None = None) -> Tensor:
    """Weighted mean of the hidden states of every piece.

    Parameters
    ----------
    tokens : Tokens
    name : str
        Key of :data:`POOLINGS`: ``mean`` (w = 1/L), ``exponential`` (w_t proportional to
        exp(-decay * age)), ``attention`` (softmax of a learned score) or ``last``.
    decay : float
        gamma of exponential pooling, per position (the paper's ``weight_scale``, 0.1).
    scorer : nn.Linear, optional
        H -> 1, for attention.

    Returns
    -------
    float [P, H]
    """
    log_weight = POOLINGS[name](tokens, decay, scorer)
    peak = torch.full((tokens.n_pieces,), float("-inf"), dtype=log_weight.dtype, device=log_weight.device)
    peak = peak.scatter_reduce(0, tokens.piece, log_weight.detach(), "amax")
    weight = (log_weight - peak[tokens.piece]).exp()
    total = torch.zeros_like(peak).index_add(0, tokens.piece, weight)
    weight = weight / total[tokens.piece]
    out = tokens.hidden.new_zeros(tokens.n_pieces, tokens.hidden.shape[1])
    return out.index_add(0, tokens.piece, tokens.hidden * weight[:, None])
