"""Beam search that cannot leave a trie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from recbole_kd.baselines.p5.trie import Trie


class Decoder(Protocol):
    """A model that is fed token by token."""

    def step(self, tokens: Tensor) -> Tensor:
        """Latest token of every row, int64 [R] -> log-probabilities of the next one, float [R, V]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from what is now row ``rows[i]``, int64 [R']."""
        ...


def search(begin: Callable[[], Decoder], n: int, start: int, trie: Trie, width: int) -> tuple[Tensor, Tensor]:
    """The most probable items for ``n`` inputs.

    A beam holds up to ``width`` prefixes and complete names together; what is complete stays with its
    log-probability. Probabilities are not renormalised over the allowed tokens and not divided by the length,
    so the score of an item is log p(name | input), and with ``width`` >= the number of items the result is
    the exact ranking of all of them.

    Parameters
    ----------
    begin : callable
        Gives the decoder, one row per input.
    n : int
    start : int
        Token that the decoder is begun with.

    Returns
    -------
    items : int64 [n, K]
        Best first; 0 where fewer than K items were found.
    scores : float [n, K]
        log p; -inf there.
    """
    decoder = begin()
    device = trie.tokens.device
    nodes = torch.zeros((n, 1), dtype=torch.long, device=device)
    scores = torch.zeros((n, 1), device=device)
    fed = torch.full((n, 1), start, device=device)
    for _ in range(trie.depth):
        chances = decoder.step(fed.flatten()).view(n, nodes.shape[1], -1)
        source, nodes, scores, fed = _grown(chances, nodes, scores, trie, width)
        if bool(((trie.item[nodes] > 0) | scores.isneginf()).all()):
            break
        rows = torch.arange(n, device=device)[:, None] * chances.shape[1] + source
        decoder.reorder(rows.flatten())
    return trie.item[nodes].masked_fill(scores.isneginf(), 0), scores


def _grown(
    chances: Tensor, nodes: Tensor, scores: Tensor, trie: Trie, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step: every prefix in the beam by every token that may follow, and the complete names as they are.

    Parameters
    ----------
    chances : float [n, K, V]
    nodes, scores : [n, K]

    Returns
    -------
    source : int64 [n, K']
        Place in the beam that each new one goes on from.
    nodes, scores, tokens : [n, K']
    """
    k = nodes.shape[1]
    tokens, children = trie.allowed(nodes)
    real = tokens >= 0
    grown = scores[:, :, None] + chances.gather(2, tokens.clamp_min(0))
    grown = grown.masked_fill(~real, -torch.inf)
    complete = scores.masked_fill(trie.item[nodes] == 0, -torch.inf)
    every = torch.cat([grown, complete[:, :, None]], 2)
    where = torch.cat([children, nodes[:, :, None]], 2).flatten(1)
    said = torch.cat([tokens.clamp_min(0), torch.zeros_like(nodes)[:, :, None]], 2).flatten(1)
    most = min(width, k * every.shape[2])
    best, at = every.flatten(1).topk(most, dim=1)
    # No more places than anybody can use.
    used = max(1, int((~best.isneginf()).sum(1).max()))
    best, at = best[:, :used], at[:, :used]
    return at // every.shape[2], where.gather(1, at), best, said.gather(1, at)
