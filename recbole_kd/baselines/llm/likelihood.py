"""Ranking by title likelihood: no text is generated, the model's own probabilities order the candidates.

For a user with prompt P (history, profile or both) and a candidate with title tokens t_1..t_m,

    LL(t | P) = sum_j log p(t_j | P, t_<j),    score = LL(t | P) / m - LL(t | P_0) / m,

P_0 the prompt without history and profile: popular and short titles are likely in any context, and the
difference (pointwise mutual information; Holtzman et al., "Surface Form Competition", EMNLP 2021) is what the
history adds. ``normalise: none`` leaves out the division by m, ``calibrate: false`` the second term. A title
ends with a line break, which is scored too, so that "Alien" is not the beginning of "Aliens".
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from profiles.store import Call, Store, Writer
from recbole_kd.baselines.llm.asking import check_backend
from recbole_kd.baselines.llm.base import TITLE, Context, LLMRanker, Ranking, Scope, Usage, Work
from recbole_kd.baselines.llm.candidates import CandidateSets
from recbole_kd.baselines.llm.params import Params, check_profile, known_of, read_params
from recbole_kd.baselines.llm.prompt import LIKELIHOOD, RankingPrompt
from recbole_kd.baselines.llm.title_scores import TitleScorer
from recbole_kd.errors import SpecError
from recbole_kd.strict import digest

_NORMALISE = ("tokens", "none")


class Likelihood(LLMRanker):
    """See the module."""

    def __init__(self, params: Mapping[str, Any], context: Context) -> None:
        super().__init__(params, context)
        self.own = read_params(_Params, params)
        self.prompt = RankingPrompt(LIKELIHOOD, context.domain, "titles")
        self._scorer: TitleScorer | None = None
        self._free: dict[str, float] = {}

    @classmethod
    def check(cls, params: Mapping[str, Any], llm: WriterSpec | None) -> None:
        """See :class:`LLMRanker`."""
        check_backend(llm, local=True)
        own = read_params(_Params, params)
        check_profile(own.profile)
        if own.normalise not in _NORMALISE:
            raise SpecError(f"params.normalise: '{own.normalise}' is unknown; use {' or '.join(_NORMALISE)}")

    @classmethod
    def source(cls, params: Mapping[str, Any], domain: str) -> dict[str, str]:
        """Version of the prompt."""
        return {"prompt": RankingPrompt(LIKELIHOOD, domain, "titles").version}

    @classmethod
    def work(cls, params: Mapping[str, Any], scope: Scope) -> Work:
        """The history once, every title after it and, to calibrate, after nothing."""
        times = 2 if params["calibrate"] else 1
        return Work(scope.users * TITLE * (params["history"] + times * scope.top))

    def rank(self, sets: CandidateSets) -> Ranking:
        """Score the titles of every user's candidates; what the store has is not computed again."""
        scores, usage = sets.retriever_scores(), Usage.zeros(len(sets))
        with Store(self.context.store) as store:
            free = self._unconditional(store, sets) if self.own.calibrate else {}
            for row in range(len(sets)):
                titles = [self.context.titles[item] for item in sets.items[row][sets.real[row]]]
                known = known_of(self.context, sets, row, self.own.history, self.own.profile)
                call = self._call(store, self.text(*known), titles)
                sums, lengths = np.asarray(json.loads(call.text))
                if self.own.calibrate:
                    sums = sums - np.array([free[title] for title in titles])
                scores[row, : len(titles)] = sums / lengths if self.own.normalise == "tokens" else sums
                usage.calls[row], usage.prompt_tokens[row] = 1, call.prompt_tokens
                usage.seconds[row] = call.seconds
                self.context.progress(row + 1, len(sets))
        return Ranking(scores, usage)

    def text(self, history: Sequence[str], profile: str | None) -> str:
        """The prefix, up to where a title begins; the space between them is the title's."""
        message = self.prompt.message(history, [], profile)
        if self.own.chat:
            rendered: str = self._local().prompt_text(message)
            return rendered
        return f"{message.user}\n{message.opening}"

    def _local(self) -> Any:
        return self.context.backend

    def _unconditional(self, store: Store, sets: CandidateSets) -> dict[str, float]:
        """Log-likelihood of every candidate's title without any history."""
        wanted = {self.context.titles[item] for item in np.unique(sets.items[sets.real])}
        titles = sorted(wanted - set(self._free))
        found = json.loads(self._call(store, self.text([], None), titles).text)[0] if titles else []
        self._free |= dict(zip(titles, found, strict=True))
        return self._free

    def _call(self, store: Store, prefix: str, titles: Sequence[str]) -> Call:
        """Log-likelihoods and token counts of titles after a prefix, from the store or from the model.

        ``text`` is JSON, ``[[log-likelihood, ...], [tokens, ...]]``.
        """
        backend = self._local()
        message = Message(LIKELIHOOD, "\n".join((prefix, *titles)), "")
        writer = Writer(backend.model, backend.revision, digest(LIKELIHOOD), self.prompt.version, "ranking")
        stored = store.calls(writer, [message.digest]).get(message.digest)
        if stored is not None:
            return stored
        scorer = self._load()
        begin = time.perf_counter()
        head = scorer.ids(prefix)
        ids = [scorer.ids(f" {title}\n") for title in titles]
        sums = scorer.score(head, ids)
        seconds = time.perf_counter() - begin
        lengths = [len(one) for one in ids]
        call = Call(
            message.digest,
            json.dumps([sums, lengths]),
            len(head) + sum(lengths),
            0,
            seconds,
            0.0,
            "stop",
        )
        store.add_calls(writer, [call])
        return call

    def _load(self) -> TitleScorer:
        if self._scorer is None:
            assert self.context.llm is not None
            tokenizer, model = self._local().load()
            self._scorer = TitleScorer(tokenizer, model, self.context.llm.batch_size)
        return self._scorer


class _Params(Params):
    """``params`` of ``properties/ranker/likelihood.yaml``."""

    history: int = Field(ge=1)
    chat: bool
    normalise: str
    calibrate: bool
    profile: str
