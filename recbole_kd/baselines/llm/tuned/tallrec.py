"""TALLRec: "will this user like this item?", answered by a tuned language model (Bao et al., RecSys 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.baselines.llm.tuned.examples import (
    Ratings,
    drawn,
    other_items,
    some_users,
    train_positions,
    trained_items,
)
from recbole_kd.baselines.llm.tuned.lm import AnswerModel, Ids
from recbole_kd.baselines.llm.tuned.spec import LoraSpec, TuneSpec
from recbole_kd.data.types import EvalSet, IntArray, Split
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

YES, NO = "Yes", "No"
_VALID, _NEGATIVES, _SHOTS = 1, 2, 3  # streams of the seed


class TallRecPrompt(Strict):
    """Templates; ``{person}`` and ``{item}`` are the domain's words."""

    frame: str = Field(description="{instruction} and {input}; the answer follows at once")
    instruction: str
    input: str = Field(description="{liked}, {disliked} and {target}")
    next_instruction: str = Field(description="where there are no ratings")
    next_input: str = Field(description="{liked} and {target}")


class TallRecSpec(Strict):
    """``params`` of ``properties/ranker/tallrec.yaml``."""

    labels: Literal["auto", "ratings", "next-item"] = Field(
        description="ratings: liked or not; next-item: chosen next or a random item; auto: ratings if any"
    )
    like_above: float = Field(description="a rating above this is a like")
    shots: int | None = Field(ge=2, description="training examples, 16, 64, 256; null: all positions")
    history: int = Field(ge=1, description="latest items in the prompt")
    min_history: int = Field(ge=1, description="items that must stand before a training target")
    max_title_tokens: int = Field(ge=1)
    valid_users: int | None = Field(ge=2, description="validation users that choose the epoch; null: all")
    score_batch: int = Field(ge=1, description="candidates read at once")
    prompt: TallRecPrompt
    lora: LoraSpec
    tune: TuneSpec


@dataclass(frozen=True)
class Question:
    """A prompt and, where known, whether its answer is yes."""

    ids: Ids
    yes: bool


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Chance that a yes scores above a no, ties half (Mann-Whitney); NaN where one of them is missing."""
    truth = np.asarray(labels, bool)
    n_yes, n_no = int(truth.sum()), int((~truth).sum())
    if not n_yes or not n_no:
        return float("nan")
    ranks = rankdata(np.asarray(scores, float))
    return float((ranks[truth].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


class TallRec:
    """Questions, their loss and their scores.

    A question holds the latest liked and disliked items of the history and one target; the answer is one
    token,

    L = -log softmax(z)[Yes if liked else No],   score = softmax(z[Yes], z[No])[Yes],

    with z the logits behind the prompt. Loss on the answer token only (the published code also trains on the
    prompt's own tokens). Where a dataset has no ratings, the question is whether the user chooses the target
    next:
    every second example has a random item that the user never chose while training, in the target's place.

    Parameters
    ----------
    lm : AnswerModel
    titles : sequence of str
        By item id.
    words : dict
        ``person`` and ``item`` of the domain.
    split : Split
    seed : int
    """

    def __init__(
        self,
        lm: AnswerModel,
        titles: Sequence[str],
        words: dict[str, str],
        split: Split,
        spec: TallRecSpec,
        seed: int,
    ) -> None:
        self.lm, self.titles, self.words = lm, titles, words
        self.split, self.spec, self.seed = split, spec, seed
        self.labels = resolve_labels(split, spec)
        self.ratings = Ratings(split) if self.labels == "ratings" else None
        self.catalogue = trained_items(split)
        self._titles: dict[int, str] = {}
        positions = drawn(train_positions(split.train, spec.min_history), None, _stream(seed, _SHOTS))
        self.positions = positions.take(np.arange(len(positions))[: spec.shots])
        if not len(self.positions):
            raise SpecError(
                f"params.min_history: {spec.min_history} leaves nothing to train on; the longest train "
                f"history has {int(split.train.lengths.max())} items"
            )
        self.tokens = lm.answers(
            self.prompt(self.positions_history(0), [], int(self.catalogue[0])), (YES, NO)
        )

    def __len__(self) -> int:
        return len(self.positions)

    def positions_history(self, example: int) -> list[int]:
        """Items before the target of a training example, latest last, cut to ``history``."""
        row, at = int(self.positions.rows[example]), int(self.positions.at[example])
        return self.split.train.row(row)[max(0, at - self.spec.history) : at].tolist()

    def title(self, item: int) -> str:
        """Title in quotation marks, cut to ``max_title_tokens``."""
        if item not in self._titles:
            self._titles[item] = f'"{self.lm.cut(self.titles[item], self.spec.max_title_tokens)}"'
        return self._titles[item]

    def prompt(self, liked: Sequence[int], disliked: Sequence[int], target: int) -> str:
        """Text of a question."""
        p = self.spec.prompt
        by_rating = self.labels == "ratings"
        instruction, template = (p.instruction, p.input) if by_rating else (p.next_instruction, p.next_input)
        parts = {
            "liked": ", ".join(map(self.title, liked)),
            "disliked": ", ".join(map(self.title, disliked)),
            "target": self.title(target),
        }
        return p.frame.format(
            instruction=instruction.format(**self.words), input=template.format(**parts, **self.words)
        )

    def question(
        self, user: int, history: IntArray, target: int, yes: bool = False, begin: int = 0
    ) -> Question:
        """Question about ``target`` after a history before which the user has ``begin`` interactions."""
        first = max(0, len(history) - self.spec.history)
        items = history[first:].tolist()
        if self.ratings is None:
            return Question(self.lm.encode(self.prompt(items, [], target)), yes)
        likes = self.ratings.of(user, len(history), begin)[first:] > self.spec.like_above
        liked = [item for item, like in zip(items, likes, strict=True) if like]
        disliked = [item for item, like in zip(items, likes, strict=True) if not like]
        return Question(self.lm.encode(self.prompt(liked, disliked, target)), yes)

    def example(self, index: int) -> Question:
        """A training example; reads the train part only."""
        train = self.split.train
        row, at = int(self.positions.rows[index]), int(self.positions.at[index])
        items, user = train.row(row), int(train.users[row])
        history, target = items[:at], int(items[at])
        if self.ratings is not None:
            begin = self.ratings.train_begin(row)
            like = self.ratings.at(user, at, begin) > self.spec.like_above
            return self.question(user, history, target, like, begin)
        if index % 2 == 0:
            return self.question(user, history, target, True)
        rng = np.random.default_rng([self.seed, _NEGATIVES, row, at])
        return self.question(user, history, int(other_items(items, self.catalogue, 1, rng)[0]))

    def loss(self, examples: IntArray, epoch: int) -> Tensor:
        """Mean of -log softmax(z)[answer] over the whole vocabulary."""
        questions = [self.example(int(i)) for i in examples]
        wanted = torch.tensor([self.tokens[0] if q.yes else self.tokens[1] for q in questions])
        logits = self.lm.logits([q.ids for q in questions])
        return F.cross_entropy(logits, wanted.to(logits.device))

    def measured(self, part: EvalSet, rows: IntArray) -> list[Question]:
        """Questions with known answers about evaluated users: their target, and without ratings a random
        item, too.

        Reads targets: for choosing the epoch (validation) and for the published measure.
        """
        found = []
        for row in rows.tolist():
            user, history, target = (
                int(part.history.users[row]),
                part.history.row(row),
                int(part.targets[row]),
            )
            if self.ratings is not None:
                like = self.ratings.at(user, len(history)) > self.spec.like_above
                found.append(self.question(user, history, target, like))
                continue
            rng = np.random.default_rng([self.seed, _NEGATIVES, user, len(history)])
            known = np.append(history, target)
            found.append(self.question(user, history, target, True))
            found.append(self.question(user, history, int(other_items(known, self.catalogue, 1, rng)[0])))
        return found

    @torch.no_grad()
    def chance_of_yes(self, questions: Sequence[Question]) -> NDArray[np.float64]:
        """softmax(z[Yes], z[No])[Yes] of every question, float64 [n]."""
        size = self.spec.score_batch
        parts = [questions[i : i + size] for i in range(0, len(questions), size)]
        logits = [self.lm.logits([q.ids for q in part])[:, self.tokens] for part in parts]
        return torch.cat(logits).double().softmax(1)[:, 0].cpu().numpy()

    def auc(self, part: EvalSet, rows: IntArray) -> float:
        """The published measure on some evaluated users."""
        questions = self.measured(part, rows)
        return auc([q.yes for q in questions], self.chance_of_yes(questions).tolist())

    def valid_rows(self) -> IntArray:
        """Validation users that choose the epoch."""
        return some_users(self.split.valid, self.spec.valid_users, _stream(self.seed, _VALID))

    def validator(self) -> tuple[str, Callable[[], float]]:
        """AUC on validation users; where all of them have one answer, minus the loss."""
        questions = self.measured(self.split.valid, self.valid_rows())
        truth = [q.yes for q in questions]
        if len(set(truth)) == 2:
            return "auc", lambda: auc(truth, self.chance_of_yes(questions).tolist())
        wanted = np.asarray(truth)

        def likelihood() -> float:
            yes = self.chance_of_yes(questions)
            return float(np.log(np.where(wanted, yes, 1 - yes) + 1e-12).mean())

        return "log_likelihood", likelihood

    def scores(
        self, user: int, history: IntArray, candidates: Sequence[int]
    ) -> tuple[NDArray[np.float64], int]:
        """Log-odds of yes for each candidate, float64 [N], and how many prompt tokens that took."""
        prompts = [self.question(user, history, item).ids for item in candidates]
        logits = self.lm.logits_of_shared(prompts, self.tokens, self.spec.score_batch)
        # The difference orders as the chance does, and does not saturate.
        difference = (logits[:, 0] - logits[:, 1]).double().cpu().numpy()
        return difference, sum(map(len, prompts))


def resolve_labels(split: Split, spec: TallRecSpec) -> str:
    """``ratings`` or ``next-item``.

    Raises
    ------
    SpecError
        Ratings are asked for and there are none, or all of them say the same.
    """
    if spec.labels == "next-item":
        return "next-item"
    ratings = None if split.dataset.ratings is None else Ratings(split).train()
    both = ratings is not None and 0 < int((ratings > spec.like_above).sum()) < len(ratings)
    if both:
        return "ratings"
    if spec.labels == "ratings":
        reason = (
            "the dataset has no ratings"
            if ratings is None
            else f"every rating is on one side of {spec.like_above}"
        )
        raise SpecError(
            f"params.labels: {reason}; set labels: next-item, or fields.rating and filter.min_rating: null"
        )
    return "next-item"


def _stream(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
