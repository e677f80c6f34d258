"""Log-likelihoods of titles after a shared prefix: the prefix is read once, its key-value cache is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class TitleScorer:
    """Log-likelihood of continuations under a causal language model.

    Parameters
    ----------
    tokenizer, model : as ``profiles.llm.local.LocalBackend.load`` gives them
    batch_size : int
        Continuations that are scored together.
    """

    def __init__(self, tokenizer: Any, model: Any, batch_size: int) -> None:
        self._tokenizer, self._model, self._batch_size = tokenizer, model, batch_size

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    @torch.inference_mode()
    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """Sum over the tokens of each continuation of log p(token | prefix, tokens before it).

        Parameters
        ----------
        prefix : sequence of int
            At least one token.
        continuations : sequence of sequence of int
            At least one token each.

        Returns
        -------
        list of float
        """
        device = self._model.device
        head = torch.tensor([list(prefix)], device=device)
        read = self._model(input_ids=head, use_cache=True, logits_to_keep=1)
        first = read.logits[0, -1].float().log_softmax(-1)
        # Alike lengths together: little padding.
        order = sorted(range(len(continuations)), key=lambda i: len(continuations[i]))
        scores = [0.0] * len(continuations)
        cache = read.past_key_values
        for begin in range(0, len(order), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            last = begin + self._batch_size >= len(order)
            found = self._batch(first, cache, head.shape[1], [continuations[i] for i in chosen], last)
            for i, value in zip(chosen, found, strict=True):
                scores[i] = value
        return scores

    def _batch(
        self, first: Tensor, cache: Any, length: int, continuations: list[Sequence[int]], last: bool
    ) -> list[float]:
        """Score continuations over one cache; ``last`` lets it be used up instead of copied."""
        import copy

        device, n = first.device, len(continuations)
        width = max(map(len, continuations))
        tokens = torch.zeros((n, width), dtype=torch.long)
        real = torch.zeros((n, width), dtype=torch.bool)
        for row, ids in enumerate(continuations):
            tokens[row, : len(ids)] = torch.tensor(list(ids))
            real[row, : len(ids)] = True
        tokens, real = tokens.to(device), real.to(device)
        total = first[tokens[:, 0]]
        if width > 1:
            shared = cache if last else copy.deepcopy(cache)
            shared.batch_repeat_interleave(n)
            seen = torch.cat([torch.ones((n, length), dtype=torch.bool, device=device), real[:, :-1]], 1)
            logits = self._model(
                input_ids=tokens[:, :-1], attention_mask=seen.long(), past_key_values=shared, use_cache=True
            ).logits
            after = logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
            total = total + (after * real[:, 1:]).sum(1)
        return [float(value) for value in total.double().tolist()]

    @torch.inference_mode()
    def score_whole(self, prefix: Sequence[int], continuation: Sequence[int]) -> float:
        """The same for one continuation by reading the whole string, without any cache."""
        whole = torch.tensor([[*prefix, *continuation]], device=self._model.device)
        logits = self._model(input_ids=whole, use_cache=False).logits[0].float().log_softmax(-1)
        at = torch.arange(len(prefix), whole.shape[1], device=whole.device)
        return float(logits[at - 1, whole[0, at]].double().sum())
