"""LlamaRec: lettered candidates in one prompt, ranked by the letters' logits (Yue et al., 2311.02089)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.baselines.llm.tuned.examples import drawn, other_items, train_positions, trained_items
from recbole_kd.baselines.llm.tuned.lm import AnswerModel, Ids
from recbole_kd.baselines.llm.tuned.spec import LoraSpec, TuneSpec
from recbole_kd.data.types import IntArray, Split
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

LETTERS = string.ascii_uppercase
_NEGATIVES, _SHOTS = 2, 3  # streams of the seed


class LlamaRecPrompt(Strict):
    """Templates of the published code."""

    frame: str = Field(description="{instruction} and {input}; the letter follows at once")
    instruction: str
    input: str = Field(description="{history} and {candidates}")
    entry: str = Field(description="{mark} and {title}: one line of either list")
    separator: str


class LlamaRecSpec(Strict):
    """``params`` of ``properties/ranker/llamarec.yaml``."""

    candidates: int = Field(ge=2, le=len(LETTERS), description="lettered; more keep the retriever's order")
    history: int = Field(ge=1)
    max_title_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=64, description="longer prompts lose their oldest history")
    examples: int | None = Field(ge=1, description="positions between two validations; null: all")
    loss_over: Literal["vocabulary", "letters"] = Field(description="what the softmax of the loss runs over")
    valid_users: int | None = Field(ge=1, description="validation users that choose the epoch; null: all")
    eval_batch: int = Field(ge=1)
    prompt: LlamaRecPrompt
    lora: LoraSpec
    tune: TuneSpec


class LlamaRec:
    """Prompts, the loss of a letter and the verbaliser.

    With z the logits behind the prompt and l_k the token of the k-th letter, s_k = z[l_k] ranks the
    candidates, and

    L = -log softmax(z)[l_target]

    over the vocabulary, as published (``loss_over: letters`` takes the softmax over the letters). A training
    example is a position of a train history: its item among ``candidates - 1`` items drawn anew every epoch,
    uniformly from the train part, none from the history before it; places are shuffled.

    Parameters
    ----------
    lm : AnswerModel
    titles : sequence of str
        By item id.
    """

    def __init__(
        self, lm: AnswerModel, titles: Sequence[str], split: Split, spec: LlamaRecSpec, seed: int
    ) -> None:
        self.lm, self.titles, self.split, self.spec, self.seed = lm, titles, split, spec, seed
        self.catalogue = trained_items(split)
        self._titles: dict[int, str] = {}
        stream = int(np.random.SeedSequence([seed, _SHOTS]).generate_state(1)[0])
        self.positions = drawn(train_positions(split.train, 1), None, stream)
        if not len(self.positions):
            raise SpecError("llamarec: no train history has two items, so there is nothing to train on")
        some = self.prompt([int(self.catalogue[0])], self.catalogue[:1].tolist())
        self.tokens = lm.answers(some, LETTERS[: spec.candidates])

    def __len__(self) -> int:
        """Examples of an epoch."""
        return min(self.spec.examples or len(self.positions), len(self.positions))

    def title(self, item: int) -> str:
        """Title cut to ``max_title_tokens``."""
        if item not in self._titles:
            self._titles[item] = self.lm.cut(self.titles[item], self.spec.max_title_tokens)
        return self._titles[item]

    def prompt(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Numbered history and lettered candidates."""
        p = self.spec.prompt
        marks = [str(i + 1) for i in range(len(history))]

        def listed(marks: Sequence[str], items: Sequence[int]) -> str:
            pairs = zip(marks, items, strict=True)
            return p.separator.join(p.entry.format(mark=m, title=self.title(i)) for m, i in pairs)

        text = p.input.format(
            history=listed(marks, history), candidates=listed(LETTERS[: len(candidates)], candidates)
        )
        return p.frame.format(instruction=p.instruction, input=text)

    def encoded(self, history: Sequence[int], candidates: Sequence[int]) -> Ids:
        """Token ids with the latest ``history`` items, fewer where ``max_tokens`` would be exceeded.

        Raises
        ------
        SpecError
            The candidates alone are too long.
        """
        kept = list(history)[-self.spec.history :]
        while True:
            ids = self.lm.encode(self.prompt(kept, candidates))
            if len(ids) <= self.spec.max_tokens:
                return ids
            if not kept:
                raise SpecError(
                    f"params.max_tokens: {self.spec.max_tokens} do not hold {len(candidates)} candidates "
                    f"({len(ids)} tokens); raise it or lower max_title_tokens"
                )
            kept = kept[1:]

    def example(self, index: int, epoch: int) -> tuple[Ids, int]:
        """Prompt of a training example and the place of its target; reads the train part only."""
        # Epoch after epoch goes on through one shuffled list of all positions.
        place = ((epoch - 1) * len(self) + index) % len(self.positions)
        row, at = int(self.positions.rows[place]), int(self.positions.at[place])
        items = self.split.train.row(row)
        history, target = items[:at], int(items[at])
        rng = np.random.default_rng([self.seed, _NEGATIVES, epoch, row, at])
        known = np.append(history, target)
        others = other_items(known, self.catalogue, self.spec.candidates - 1, rng)
        candidates = rng.permutation(np.append(others, target)).tolist()
        return self.encoded(history.tolist(), candidates), candidates.index(target)

    def loss(self, examples: IntArray, epoch: int) -> Tensor:
        """Mean of -log softmax(z)[l_target]."""
        prompts, places = zip(*(self.example(int(i), epoch) for i in examples), strict=True)
        logits = self.lm.logits(prompts)
        if self.spec.loss_over == "letters":
            return F.cross_entropy(logits[:, self.tokens], torch.tensor(places, device=logits.device))
        wanted = torch.tensor([self.tokens[place] for place in places], device=logits.device)
        return F.cross_entropy(logits, wanted)

    @torch.no_grad()
    def scores(
        self, histories: Sequence[IntArray], candidates: Sequence[Sequence[int]]
    ) -> tuple[NDArray[np.float64], list[int]]:
        """Logits of the letters, float64 [n, candidates], and the tokens of every prompt.

        Parameters
        ----------
        histories : sequence of int64 arrays
        candidates : sequence of sequences
            At most ``candidates`` items each; -inf stands behind the last one.
        """
        found = np.full((len(histories), self.spec.candidates), -np.inf)
        prompts = [
            self.encoded(h.tolist(), list(c)[: self.spec.candidates])
            for h, c in zip(histories, candidates, strict=True)
        ]
        for begin in range(0, len(prompts), self.spec.eval_batch):
            part = slice(begin, min(begin + self.spec.eval_batch, len(prompts)))
            found[part] = self.lm.logits(prompts[part])[:, self.tokens].double().cpu().numpy()
        lengths = np.array([min(len(c), self.spec.candidates) for c in candidates])
        found[np.arange(self.spec.candidates) >= lengths[:, None]] = -np.inf
        return found, [len(p) for p in prompts]
