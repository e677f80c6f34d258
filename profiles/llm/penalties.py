"""Decoding penalties that look at generated tokens only.

A penalty over the prompt as well would forbid the model to name the user's own categories.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor


class GeneratedOnlyPenalties(LogitsProcessor):
    """Repetition penalty (Keskar et al., 2019, arXiv 1909.05858) and no-repeat n-grams.

    Parameters
    ----------
    prompt_width : int
        Tokens before this column are the prompt and are ignored.
    penalty : float
        Scores of tokens already generated are divided (positive) or multiplied (negative) by it.
    ngram : int
        No n-gram of this length is generated twice; 0 is off.
    """

    def __init__(self, prompt_width: int, penalty: float, ngram: int) -> None:
        self.prompt_width = prompt_width
        self.penalty = penalty
        self.ngram = ngram
        # Per row: (n-1)-gram -> tokens that followed it.
        self._followers: list[dict[tuple[int, ...], list[int]]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        generated = input_ids[:, self.prompt_width :]  # [B, T]
        if generated.shape[1] == 0:
            return scores
        if self.penalty != 1.0:
            seen = scores.gather(1, generated)
            scores = scores.scatter(
                1, generated, torch.where(seen < 0, seen * self.penalty, seen / self.penalty)
            )
        if self.ngram > 0 and generated.shape[1] >= self.ngram - 1:
            scores = self._forbid(generated, scores)
        return scores

    def _forbid(self, generated: Any, scores: Any) -> Any:
        tail = generated[:, -self.ngram :].tolist()
        if not self._followers:
            self._followers = [{} for _ in tail]
        for row, (last, followers) in enumerate(zip(tail, self._followers, strict=True)):
            if len(last) == self.ngram:
                followers.setdefault(tuple(last[:-1]), []).append(last[-1])
            prefix = tuple(last[len(last) - self.ngram + 1 :])
            if banned := followers.get(prefix):
                scores[row, banned] = -float("inf")
        return scores
