"""Pooling of hidden states into one vector per piece of history: h_u = sum_t w_t H[t].

A pooling returns the unnormalised log-weight of every token; the weights of a piece sum to 1. Padding never
takes part unless it is asked for (:func:`with_padding`): the reference code of Severin et al. (ECIR 2026)
pools over the whole padded row, which makes the length of h_u depend on the length of the history.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_kd.models.names import find


class Tokens:
    """The real (not padded) positions of a batch, flat: pieces one after another, oldest item first.

    Attributes
    ----------
    hidden : float [T, H]
    piece : int64 [T]
        Piece of every token, 0..P-1.
    position : int64 [T]
        Position inside the piece, from 0.
    age : int64 [T]
        Distance to the last position of the piece; 0 is the newest item.
    n_pieces : int
    width : int
        No piece is longer.
    """

    def __init__(self, hidden: Tensor, segment: Tensor, position: Tensor, length: Tensor) -> None:
        real = segment < len(length)
        self.hidden = hidden[real]
        self.piece = segment[real]
        self.position = position[real]
        self.age = length[self.piece] - 1 - self.position
        self.n_pieces = len(length)
        self.width = segment.shape[1]


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


def get_pooling(name: str) -> LogWeight:
    """Return the pooling called ``name``.

    Raises
    ------
    SpecError
        If there is none; the message names the nearest one.
    """
    return find(POOLINGS, name, "distill.pooling")


def with_padding(tokens: Tokens, length: Tensor, width: int) -> Tokens:
    """Add the padding that would stand before every piece in a row of ``width``, as zero vectors.

    The reference code pads on the left, zeroes the states of padding after every block and pools over the
    row, so a history of n items gives n / width times its mean. Here the batches hold hardly any padding (and
    what there is depends on the packing), so the padding of the reference's row is added by number.

    Parameters
    ----------
    tokens : Tokens
    length : int64 [P]
    width : int
        RecBole's ``MAX_ITEM_LIST_LENGTH``.
    """
    column = torch.arange(width, device=length.device).expand(len(length), width)
    pad = column >= length[:, None]
    piece = torch.arange(len(length), device=length.device)[:, None].expand_as(column)[pad]
    out = object.__new__(Tokens)
    out.hidden = torch.cat([tokens.hidden, tokens.hidden.new_zeros(len(piece), tokens.hidden.shape[1])])
    out.piece = torch.cat([tokens.piece, piece])
    out.age = torch.cat([tokens.age, column[pad]])
    out.position = torch.cat([tokens.position, length[piece] - 1 - column[pad]])
    out.n_pieces, out.width = tokens.n_pieces, width
    return out


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
    log_weight = get_pooling(name)(tokens, decay, scorer)
    peak = torch.full((tokens.n_pieces,), float("-inf"), dtype=log_weight.dtype, device=log_weight.device)
    peak = peak.scatter_reduce(0, tokens.piece, log_weight.detach(), "amax")
    weight = (log_weight - peak[tokens.piece]).exp()
    total = torch.zeros_like(peak).index_add(0, tokens.piece, weight)
    weight = weight / total[tokens.piece]
    out = tokens.hidden.new_zeros(tokens.n_pieces, tokens.hidden.shape[1])
    return out.index_add(0, tokens.piece, tokens.hidden * weight[:, None])


def pool_prefixes(tokens: Tokens, name: str, *, decay: float, scorer: nn.Linear | None = None) -> Tensor:
    """Pool every prefix of every piece: row t is :func:`pool` of the tokens of its piece up to t.

    A running sum of weights and weighted states, by doubling: after step k a token holds the sum over the 2^k
    tokens that end at it. log2(L) steps over [T, H] instead of an [L, L] table per piece, and, unlike one
    cumulative sum over all pieces, no difference of large sums. Each token carries its own peak, so that
    weights of any range are summed without overflow.

    Parameters
    ----------
    tokens : Tokens
        Without added padding.
    name, decay, scorer : as for :func:`pool`

    Returns
    -------
    float [T, H]
    """
    if name == "last":
        return tokens.hidden
    log_weight = get_pooling(name)(tokens, decay, scorer)
    peak = log_weight.detach()
    total = (log_weight - peak).exp()
    state = tokens.hidden * total[:, None]
    step = 1
    while step < min(tokens.width, len(peak)):
        reaches = tokens.position >= step
        before = torch.where(reaches, peak.roll(step), float("-inf"))
        top = torch.maximum(peak, before)
        own, other = (peak - top).exp(), (before - top).exp()
        total = own * total + other * total.roll(step)
        state = own[:, None] * state + other[:, None] * state.roll(step, 0)
        peak, step = top, 2 * step
    return state / total[:, None]
