"""Zero-shot re-ranking by prompting (LLMRank: Hou et al., "Large Language Models are Zero-Shot Rankers for
Recommender Systems", ECIR 2024).

The candidates of a user are shown in a random order ``bootstrap`` times; an answer places some of them, the
others follow in the retriever's order; with r_b(i) the place of candidate i in answer b,

    score(i) = - sum_b r_b(i),

and equal sums are ordered as the retriever did. Unlike the published code nothing is asked again when an
answer lacks the target, and the target is among the candidates only if the retriever found it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from recbole_kd.baselines.llm.asking import ask, check_backend, usage_of
from recbole_kd.baselines.llm.base import TITLE, Context, LLMRanker, Ranking, Scope, Work
from recbole_kd.baselines.llm.candidates import CandidateSets, Floats
from recbole_kd.baselines.llm.params import Params, check_profile, known_of, read_params
from recbole_kd.baselines.llm.parse import parse_ranking
from recbole_kd.baselines.llm.prompt import PROMPTS, RankingPrompt
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.data.types import IntArray
from recbole_kd.errors import SpecError

ORDERS = ("shuffled", "retriever")
# Tokens of a prompt without titles, and of a line of an answer beside its title.
_FRAME, _LINE = 130, 3


class LLMRank(LLMRanker):
    """See the module."""

    def __init__(self, params: Mapping[str, Any], context: Context) -> None:
        super().__init__(params, context)
        self.own = read_params(_Params, params)
        self.prompt = RankingPrompt(self.own.prompt, context.domain, self.own.answer)

    @classmethod
    def check(cls, params: Mapping[str, Any], llm: WriterSpec | None) -> None:
        """See :class:`LLMRanker`."""
        check_backend(llm)
        own = read_params(_Params, params)
        check_profile(own.profile)
        if own.prompt not in PROMPTS:
            raise SpecError(
                f"params.prompt: no ranking prompt '{own.prompt}'{did_you_mean(own.prompt, PROMPTS)}"
            )
        RankingPrompt(own.prompt, "generic", own.answer)
        if own.shown not in ORDERS:
            raise SpecError(f"params.shown: '{own.shown}' is unknown; use {' or '.join(ORDERS)}")
        if own.shown == "retriever" and own.bootstrap > 1:
            raise SpecError("params.bootstrap: the retriever's order is shown once; set it to 1")

    @classmethod
    def source(cls, params: Mapping[str, Any], domain: str) -> dict[str, str]:
        """Version of the prompt."""
        return {"prompt": RankingPrompt(params["prompt"], domain, params["answer"]).version}

    @classmethod
    def work(cls, params: Mapping[str, Any], scope: Scope) -> Work:
        """A prompt and an answer per user and shuffle."""
        prompts, answer = scope.users * params["bootstrap"], scope.top * (TITLE + _LINE)
        read = prompts * (_FRAME + TITLE * (params["history"] + scope.top))
        return Work(read, prompts * min(answer, scope.max_new_tokens))

    def rank(self, sets: CandidateSets) -> Ranking:
        """Ask for every user and shuffle; sum the places."""
        orders = [self.shown(sets, row) for row in range(len(sets))]
        asked = self.messages(sets)
        answers = ask(self.context, [m for messages in asked for m in messages], self.prompt.version)
        usage = usage_of(answers, [[m.digest for m in messages] for messages in asked])
        scores, counts = sets.retriever_scores(), {"answers_unusable": 0, "answers_cut_off": 0}
        for row in range(len(sets)):
            if not len(orders[row][0]):
                continue
            total = np.zeros(len(orders[row][0]))
            for order, message in zip(orders[row], asked[row], strict=True):
                call = answers[message.digest]
                named = parse_ranking(call.text, self.titles(sets, row, order), self.own.threshold)
                usage.unparsed[row] += len(order) - len(named)
                counts["answers_unusable"] += not named
                counts["answers_cut_off"] += call.finish_reason == "length"
                total += places(order[named], sets.slots[row][: len(order)])
            # Sums are whole or half numbers: a slot, made smaller than any difference, orders equal ones.
            slots = sets.slots[row][: len(total)]
            scores[row, : len(total)] = -(total * 4 * self.context.split.dataset.n_items + slots)
        counts["messages"] = len(answers)
        return Ranking(scores, usage, counts)

    def messages(self, sets: CandidateSets) -> list[list[Message]]:
        """One message per user and shuffle."""
        return [
            [self.message(sets, row, order) for order in self.shown(sets, row)] for row in range(len(sets))
        ]

    def shown(self, sets: CandidateSets, row: int) -> list[IntArray]:
        """Orders in which a user's candidates are shown, as places in ``sets.items[row]``."""
        n = int(sets.real[row].sum())
        if self.own.shown == "retriever":
            return [np.arange(n)]
        user = int(sets.users[row])
        draw = np.random.default_rng([self.context.seed, self.own.shuffle_seed, user])
        return [draw.permutation(n) for _ in range(self.own.bootstrap)]

    def titles(self, sets: CandidateSets, row: int, order: IntArray) -> list[str]:
        """Titles of the candidates in the order shown."""
        return [self.context.titles[item] for item in sets.items[row][order]]

    def message(self, sets: CandidateSets, row: int, order: IntArray) -> Message:
        """What is asked about one user."""
        history, profile = known_of(self.context, sets, row, self.own.history, self.own.profile)
        return self.prompt.message(history, self.titles(sets, row, order), profile)


def places(named: IntArray, slots: Floats) -> Floats:
    """1-based place of every candidate: the named ones first, the others in the retriever's order.

    Parameters
    ----------
    named : int64 [m]
        Candidates in the order of the answer.
    slots : float64 [n]
        The retriever's; equal slots share the mean of their places.

    Returns
    -------
    float64 [n]
    """
    found = np.empty(len(slots))
    found[named] = np.arange(1, len(named) + 1)
    rest = np.setdiff1d(np.arange(len(slots)), named)
    left = slots[rest]
    above = (left[:, None] > left).sum(1)
    equal = (left[:, None] == left).sum(1)
    found[rest] = len(named) + above + (equal + 1) / 2
    return found


class _Params(Params):
    """``params`` of ``properties/ranker/llmrank*.yaml``."""

    prompt: str
    answer: str
    history: int = Field(ge=1)
    bootstrap: int = Field(ge=1)
    shown: str
    shuffle_seed: int = Field(ge=0)
    threshold: float = Field(gt=0, le=1)
    profile: str
